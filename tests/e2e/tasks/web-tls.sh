## install the server
DEBIAN_FRONTEND=noninteractive apt-get -q -y install nginx-light

## a key and a certificate, self-signed until the real one comes
install -d -m 0755 /etc/ssl/shop
openssl req -x509 -newkey rsa:2048 -nodes -keyout /etc/ssl/shop/shop.key -out /etc/ssl/shop/shop.crt -days 365 -subj /CN=shop.example

## the site and its page
mkdir -p /srv/shop
cat >/srv/shop/index.html <<'EOF'
<!doctype html>
<title>shop</title>
<h1>Open for business</h1>
EOF
cat >/etc/nginx/sites-available/shop <<'EOF'
server {
    listen 443 ssl;
    server_name shop.example;
    ssl_certificate /etc/ssl/shop/shop.crt;
    ssl_certificate_key /etc/ssl/shop/shop.key;
    root /srv/shop;
}
EOF
ln -s ../sites-available/shop /etc/nginx/sites-enabled/shop
rm /etc/nginx/sites-enabled/default

## try the configuration, then switch over
nginx -t && systemctl reload nginx
