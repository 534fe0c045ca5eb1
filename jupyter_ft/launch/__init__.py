"""Where a session runs: today a thread of the kernel."""
