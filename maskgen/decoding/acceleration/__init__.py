"""The model run in other ways: parts of it anew, cells merged, compiled, in 8 bits, with a window, with a learned shortcut."""
