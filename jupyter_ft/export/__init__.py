"""Weights of a run, taken home: an adapter, a whole model, GGUF, an Ollama model; loaded again before it says done.

place    a folder that is there when it is whole, and not before
merge    the whole model, on the CPU, in the base's dtype
check    the export loaded again as anybody would, against what the run itself answers
gguf     llama.cpp's converter and quantiser, where they are installed
ollama   the Modelfile, with the chat template in Ollama's language
card     the model card, from the record of the run
hub      up to the hub, private unless it is asked otherwise
write    all of it, in order
"""
