## a certificate authority, and a copy where clients fetch it
install -d -m 0700 /root/ca
openssl req -x509 -newkey rsa:2048 -nodes -keyout /root/ca/ca.key -out /root/ca/ca.crt -days 3650 -subj '/O=Lab/CN=Lab CA'
install -d -m 0755 /srv/ca
install -m 0644 /root/ca/ca.crt /srv/ca/lab-ca.crt

## a certificate that it signs
openssl req -newkey rsa:2048 -nodes -keyout /root/ca/www.key -out /root/ca/www.csr -subj /CN=www.lab.example
openssl x509 -req -in /root/ca/www.csr -CA /root/ca/ca.crt -CAkey /root/ca/ca.key -CAcreateserial -days 90 -out /root/ca/www.crt
