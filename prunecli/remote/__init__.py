"""Models that are elsewhere: on the Hugging Face Hub, on a web server, in a bucket. They are only read."""
