"""The verbs of the command line, a file a group; torch is imported inside a verb, so that `maskgen --help` is fast."""
