"""The twig: a module on a base model, its checkpoint, and the import of published ones."""
