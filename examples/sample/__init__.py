"""The embedded sample: a small web site made of the images that a package ships."""
