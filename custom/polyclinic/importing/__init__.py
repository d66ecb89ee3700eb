"""A hospital's folder of files made into a site folder, with pseudonyms and without identities."""
