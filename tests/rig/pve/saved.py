"""The state on disk: what was answered survives a kill."""

import os
import pickle
import time

# What makes up the world; faults, the network's condition and open connections do not survive.
KEPT = ('nodes', 'cluster_name', 'standalone', 'version', 'release_version', 'quorate', 'time_scale', 'apitokens', 'acl',
        'pools', 'pool_info', 'storages', 'vms', 'cts', 'tasks', 'tasklog', 'hosts', 'spaces', 'contents', 'mappings',
        'base_memory', 'starts')


def save(double, path):
    """Write the world beside the file and rename it into place."""
    guests = list(double.vms) + list(double.cts)
    events = [(guest, guest.lock_released) for guest in guests]
    for guest in guests:
        guest.lock_released = None  # an event of the running loop cannot be kept
    try:
        data = pickle.dumps(dict((name, getattr(double, name)) for name in KEPT))
    finally:
        for guest, event in events:
            guest.lock_released = event
    half = path + '.half'
    with open(half, 'wb') as out:
        out.write(data)
    os.replace(half, path)


def load(double, path):
    """Take up a saved world, if there is one. Tasks that ran then have died with their worker."""
    if not os.path.exists(path):
        return False
    with open(path, 'rb') as saved:
        for name, value in pickle.load(saved).items():
            setattr(double, name, value)
    # tasklog and tasks hold the same records.
    for record in double.tasks.values():
        if record['status'] == 'running':
            # PVE::RESTEnvironment: a worker that is gone without a last line.
            record.update(status='stopped', exitstatus='unexpected status', endtime=int(time.time()))
    for guest in list(double.vms) + list(double.cts):
        guest.lock_holder = None
    return True
