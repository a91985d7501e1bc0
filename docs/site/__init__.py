"""What makes the site out of the pages: a hook of mkdocs, and the pages that are made from the CRDs."""
