"""A Proxmox VE double for tests: `python double.py --state DIR [--listen 127.0.0.1:0]`.

Begins with DIR/world.json, goes on from DIR/saved.json if that exists. Prints one JSON line when it listens.
See README.md for the world's format and the control API.
"""

import argparse
import asyncio
import hashlib
import ipaddress
import json
import logging
import os
import signal
import ssl
import sys

import world
from control import Control
from fakepve.certs import make_cert
from server import Double


def parse_arguments():
    """The command line; only loopback addresses are listened on."""
    parser = argparse.ArgumentParser(description='A Proxmox VE double.')
    parser.add_argument('--state', required=True, metavar='DIR', help='holds world.json; everything is kept there')
    parser.add_argument('--listen', default='127.0.0.1:0', metavar='ADDRESS:PORT', help='port 0: a free one, then kept')
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(':')
    try:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError
        return os.path.abspath(arguments.state), host, int(port)
    except ValueError:
        parser.error('--listen takes a loopback address and a port, as in 127.0.0.1:0')


def certificate(directory, host):
    """(certificate path, key path, fingerprint); self-signed, made once."""
    cert, key = os.path.join(directory, 'pve-cert.pem'), os.path.join(directory, 'pve-key.pem')
    if not os.path.exists(cert):
        made, made_key, _ = make_cert(directory, name='pve', hosts=(host,))
        os.replace(made_key, key)
        with open(made, 'rb') as f, open(os.path.join(directory, 'pve-ca.pem'), 'wb') as out:
            out.write(f.read())
        os.replace(made, cert)
    with open(cert, encoding='ascii') as f:
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(f.read())).hexdigest().upper()
    return cert, key, ':'.join(digest[i:i + 2] for i in range(0, len(digest), 2))


def kept_ports(directory, port):
    """The ports of an earlier run: [PVE, control], 0 where there was none."""
    path = os.path.join(directory, 'ports.json')
    if not os.path.exists(path):
        return [port, 0]
    with open(path, encoding='utf-8') as f:
        kept = json.load(f)
    return [port or kept[0], kept[1]]


def fill(pve, directory):
    """The state of before, or a new world."""
    if pve.store.exists():
        pve.store.load(pve)
    else:
        with open(os.path.join(directory, 'world.json'), encoding='utf-8') as f:
            world.load(pve, json.load(f))
        pve.store.save_histories(pve)
    pve.save()


async def serve(directory, host, port):
    """Run until SIGTERM or SIGINT."""
    cert, key, fingerprint = certificate(directory, host)
    ports = kept_ports(directory, port)
    pve = Double(directory, host, ports[0])
    pve.fingerprint = fingerprint
    fill(pve, directory)
    control = Control(pve)
    await pve.start(cert, key)
    await control.start(host, ports[1])
    with open(os.path.join(directory, 'ports.json'), 'w', encoding='utf-8') as out:
        json.dump([pve.port, control.port], out)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print(json.dumps({'pve': pve.url, 'control': 'http://{0}:{1}'.format(host, control.port),
                      'fingerprint': fingerprint, 'certificate': cert}), flush=True)
    await ended.wait()
    # Workers end with the process, as after a kill; the next run finds them dead.
    os._exit(0)


def main():
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    directory, host, port = parse_arguments()
    try:
        asyncio.run(serve(directory, host, port))
    except (OSError, ValueError, world.WorldError) as e:
        sys.exit('double: {0}'.format(e))


if __name__ == '__main__':
    main()
