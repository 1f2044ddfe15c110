"""The embedded sample: a small web site made of the pictures that a package ships."""
