"""The web page: a tab for each thing that the loaded models can do, on the engines and limits of the server."""
