"""All kinds of damage."""

from tests.damage import batches, files, units, values
from tests.damage.harness import DAMAGES

MODULES = (files, values, units, batches)
KINDS = tuple(DAMAGES.kinds)
