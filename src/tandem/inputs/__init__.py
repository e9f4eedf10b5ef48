"""What a Run reads: where each input lies on this machine, and exactly which bytes it is."""

from tandem.inputs.pin import pin_inputs, verify_pins
from tandem.inputs.references import Reference, list_references
from tandem.inputs.remote import find_unreachable, pin_remote
from tandem.inputs.resolve import Resolver

__all__ = ["Reference", "Resolver", "find_unreachable", "list_references", "pin_inputs", "pin_remote", "verify_pins"]
