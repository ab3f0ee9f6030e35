"""The environment in the form that other libraries expect. Nothing here is loaded by `import zerosearch_env`."""
