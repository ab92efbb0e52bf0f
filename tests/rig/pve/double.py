"""A Proxmox VE double: the package fakepve, with what it lacks added outside of it.

    python double.py --state FOLDER

reads FOLDER/world.json (tests/rig/src/double.rs writes it), or goes on from FOLDER/saved.pickle if it ran before,
serves the PVE API over TLS and a control API over plain HTTP on loopback, and prints where as one line of JSON.
Every request is recorded in FOLDER/requests.jsonl, with what the real API would have to say against it.
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import ssl
import sys

from aiohttp import web
from fakepve.certs import make_cert

from control import Control
from machine import Machine
from saved import load, save
from wire import Wire


class Double(Wire, Machine):
    """The fake cluster: the wire in front, the machines behind, fakepve between."""

    def __init__(self, folder, certificate, fingerprint):
        super().__init__(host='127.0.0.1', port=0)
        self.folder = folder
        self.certificate = certificate
        self.fingerprint = fingerprint

    def changed(self):
        """The state is on disk before an answer or the end of a task can be seen."""
        save(self, os.path.join(self.folder, 'saved.pickle'))


def certificate(folder):
    """(certificate, key, fingerprint): made once, so that a restarted double is the same host."""
    cert, key = os.path.join(folder, 'pve.crt'), os.path.join(folder, 'pve.key')
    if not os.path.exists(cert):
        make_cert(folder, 'pve')
    with open(cert, encoding='ascii') as text:
        der = ssl.PEM_cert_to_DER_cert(text.read())
    digest = hashlib.sha256(der).hexdigest().upper()
    return cert, key, ':'.join(digest[i:i + 2] for i in range(0, len(digest), 2))


def ports(folder, chosen=None):
    """The ports of an earlier run, which clients still know; or keeps the chosen ones."""
    path = os.path.join(folder, 'ports.json')
    if chosen:
        with open(path, 'w', encoding='ascii') as out:
            json.dump(chosen, out)
        return chosen
    if os.path.exists(path):
        with open(path, encoding='ascii') as text:
            return json.load(text)
    return {'pve': 0, 'control': 0}


async def serve(folder):
    cert, key, fingerprint = certificate(folder)
    double = Double(folder, cert, fingerprint)
    if not load(double, os.path.join(folder, 'saved.pickle')):
        with open(os.path.join(folder, 'world.json'), encoding='utf-8') as text:
            double.settle_in(json.load(text))
    known = ports(folder)
    double.port = known['pve']
    await double.start(cert, key)
    control = web.AppRunner(Control(double).app(), access_log=None)
    await control.setup()
    await web.TCPSite(control, '127.0.0.1', known['control']).start()
    known = ports(folder, {'pve': double.port, 'control': control.addresses[0][1]})
    print(json.dumps({'pve': double.url, 'control': 'http://127.0.0.1:{0}'.format(known['control']),
                      'fingerprint': fingerprint, 'certificate': cert}), flush=True)
    ended = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, ended.set)
    await ended.wait()
    await double.stop()
    await control.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--state', required=True, help='folder of world.json, and of what is kept')
    folder = os.path.abspath(parser.parse_args().state)
    if not os.path.exists(os.path.join(folder, 'world.json')):
        sys.exit('there is no world.json in {0}'.format(folder))
    asyncio.run(serve(folder))


if __name__ == '__main__':
    main()
