"""Train and export: one recipe from annotations to a bundle."""
