## the certificate authority of the house
cat >/usr/local/share/ca-certificates/lab-ca.crt <<'EOF'
-----BEGIN CERTIFICATE-----
MIIBkzCCATmgAwIBAgIUS2vCuWkzmuFivxX7FRxiB6x7M1wwCgYIKoZIzj0EAwIw
HzEMMAoGA1UECgwDTGFiMQ8wDQYDVQQDDAZMYWIgQ0EwHhcNMjYxMTI5MTcxMjQz
WhcNNDYxMTI0MTcxMjQzWjAfMQwwCgYDVQQKDANMYWIxDzANBgNVBAMMBkxhYiBD
QTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNwpzkHKHzF/Q2t78l7HL7xSMrwR
34R4rtAdc9vXIT0mbdHsS6rQ2tJ9yTeI3cw9Y+8fpNjHDQPhhpcYiMpaslCjUzBR
MB0GA1UdDgQWBBRGcteqIb2MPrnLXmLoJsd28IzZsjAfBgNVHSMEGDAWgBRGcteq
Ib2MPrnLXmLoJsd28IzZsjAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gA
MEUCIQC43ySbnDnxYVgU2F1ZIYvwk3gwTm5mhcFWMrHPZnnT6gIgLQHal18gO0lG
88L9ZUnkCe72beRRrOncjdWUGGr5AsM=
-----END CERTIFICATE-----
EOF

## trusted by this machine
update-ca-certificates
openssl verify -CApath /etc/ssl/certs /usr/local/share/ca-certificates/lab-ca.crt
