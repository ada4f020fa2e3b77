"""How attacks are run: the rows and models that they get, and the job that runs them."""
