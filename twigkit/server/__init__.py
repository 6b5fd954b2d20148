"""The server: an HTTP interface in the format of OpenAI's, over a batch that runs all the time."""
