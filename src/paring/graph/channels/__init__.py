"""Channels: which can be removed together, removing them, and the proof that it was right."""

from paring.graph.channels.groups import ChannelGroup, Member, channel_groups, frozen_layers, groups_of
from paring.graph.channels.probes import probes
from paring.graph.channels.proof import proven_removal, training_failure
from paring.graph.channels.remove import remove_channels
from paring.graph.channels.sizes import Removal
from paring.graph.channels.trace import Trace, trace
from paring.graph.channels.verify import check_removal, run

__all__ = [
    "ChannelGroup",
    "Member",
    "Removal",
    "Trace",
    "channel_groups",
    "check_removal",
    "frozen_layers",
    "groups_of",
    "probes",
    "proven_removal",
    "remove_channels",
    "run",
    "trace",
    "training_failure",
]
