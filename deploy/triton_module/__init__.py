"""The C module that Triton would compile on its first GPU, made while the CUDA image is built."""
