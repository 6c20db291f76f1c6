"""The bundle of the model any-64; `maskgen.Pipeline.from_pretrained("any-64")` finds it here."""
