## install the tools
apt-get -q -y install wireguard-tools

## this machine's key
umask 077
wg genkey >/etc/wireguard/private.key
wg pubkey </etc/wireguard/private.key >/etc/wireguard/public.key

## the tunnel
umask 077
cat >/etc/wireguard/wg0.conf <<EOF
[Interface]
Address = 10.99.0.2/24
PrivateKey = $(cat /etc/wireguard/private.key)

[Peer]
PublicKey = kJ4QwPq2m1o9bYb8V0o6Q2s3H5t7u9v1x3z5B7D9F1g=
AllowedIPs = 10.99.0.0/24
Endpoint = vpn.lab.example:51820
EOF
