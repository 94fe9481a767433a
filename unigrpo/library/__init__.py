"""The public Python interface: a policy that generates, and a trainer in one process. It never imports Ray."""
