"""The native code of the CPU executor and how it is built."""
