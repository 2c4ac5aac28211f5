"""The configs of agcnn_jax/configs/, as files to name on the command line."""
