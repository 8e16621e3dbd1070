# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services with everything that ipvsadm 1.31 has a word for, and what `ipvsadm-save -n` prints of them."""

from __future__ import annotations

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import (
    DIRECT,
    FLAGS,
    LOCAL,
    TUNNEL,
    RealServer,
    VirtualService,
)

SAVED = """\
-A -t 10.96.0.1:443 -s mh -p 10800 -b mh-port
-a -t 10.96.0.1:443 -r 9.0.0.2:443 -i -w 1 --tun-type ipip
-a -t 10.96.0.1:443 -r 9.0.0.3:443 -g -w 1
-a -t 10.96.0.1:443 -r 9.0.0.4:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 10.96.0.1:443 -r 9.0.0.5:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-a -t 10.96.0.1:443 -r 9.0.0.6:443 -i -w 1 --tun-type gre --tun-csum
-a -t 10.96.0.1:443 -r 9.0.0.7:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
-a -t 10.96.0.1:443 -r 9.0.0.8:443 -i -w 1 --tun-type gre --tun-nocsum
-a -t 10.96.0.1:443 -r 10.0.0.2:80 -m -w 3
-a -t 10.96.0.1:443 -r 10.0.0.10:80 -m -w 1
-a -t 10.96.0.1:443 -r 127.0.0.1:443 -g -w 1
-A -t 10.96.0.2:443 -s mh -p 60 -M 255.255.255.0 -b mh-fallback,mh-port
-A -t 10.96.0.3:443 -s sh -b sh-port
-A -t 10.96.0.4:443 -s rr -b flag-1,flag-3
-A -u 10.96.0.5:53 -s wlc -o
-A -u 10.96.0.5:54 -s wlc -p 5 -o
-A -u 10.96.0.5:5060 -s rr -p 60 --pe sip -o
-A --sctp-service 10.96.0.6:9 -s rr
-A -t [fd00::1]:443 -s rr -p 60
-a -t [fd00::1]:443 -r [fd00::a]:80 -m -w 1
-a -t [fd00::1]:443 -r [fd00::ffff:a00:1]:80 -m -w 1
-A -t [fd00::2]:443 -s rr -p 60 -M 64
-A -f 7 -s rr
-a -f 7 -r 10.0.0.2:0 -g -w 1
-A -f 8 -6 -s rr
-a -f 8 -6 -r [fd00::a]:0 -g -w 1
""".splitlines()
FIRST, SIXTH = "tcp 10.96.0.1:443", "tcp [fd00::1]:443"
SERVICES = (
    VirtualService(FIRST, "mh", FLAGS["port"], 10800, 32),
    VirtualService("tcp 10.96.0.2:443", "mh", FLAGS["fallback"] | FLAGS["port"], 60, 24),
    VirtualService("tcp 10.96.0.3:443", "sh", FLAGS["port"]),
    VirtualService("tcp 10.96.0.4:443", "rr", FLAGS["fallback"] | FLAGS["flag-3"]),
    VirtualService("udp 10.96.0.5:53", "wlc", FLAGS["one-packet"]),
    VirtualService("udp 10.96.0.5:54", "wlc", FLAGS["one-packet"], 5, 32),
    VirtualService("udp 10.96.0.5:5060", "rr", FLAGS["one-packet"], 60, 32, "sip"),
    VirtualService("sctp 10.96.0.6:9"),
    VirtualService(SIXTH, "rr", 0, 60, 128),
    VirtualService("tcp [fd00::2]:443", "rr", 0, 60, 64),
    VirtualService("mark 7"),
    VirtualService("mark6 8"),
)
SERVERS = (
    RealServer(FIRST, "9.0.0.2:443", TUNNEL),
    RealServer(FIRST, "9.0.0.3:443", DIRECT),
    RealServer(FIRST, "9.0.0.4:443", TUNNEL, tunnel=("gue", 6080, "none")),
    RealServer(FIRST, "9.0.0.5:443", TUNNEL, tunnel=("gue", 6080, "checksum")),
    RealServer(FIRST, "9.0.0.6:443", TUNNEL, tunnel=("gre", 0, "checksum")),
    RealServer(FIRST, "9.0.0.7:443", TUNNEL, tunnel=("gue", 6080, "remote")),
    RealServer(FIRST, "9.0.0.8:443", TUNNEL, tunnel=("gre", 0, "none")),
    RealServer(FIRST, "10.0.0.2:80", weight=3),
    RealServer(FIRST, "10.0.0.10:80"),
    RealServer(FIRST, "127.0.0.1:443", LOCAL),
    RealServer(SIXTH, "[fd00::a]:80"),
    RealServer(SIXTH, "[fd00::ffff:a00:1]:80"),
    RealServer("mark 7", "10.0.0.2:0", DIRECT),
    RealServer("mark6 8", "[fd00::a]:0", DIRECT),
)
