## install apache
DEBIAN_FRONTEND=noninteractive apt-get -q -y install apache2

## the document root
install -d -o www-data -g www-data -m 0750 /var/www/docs
echo '<h1>Documentation</h1>' >/var/www/docs/index.html
chown www-data:www-data /var/www/docs/index.html

## the virtual host
cat >/etc/apache2/sites-available/docs.conf <<'EOF'
<VirtualHost *:80>
    ServerName docs.example
    DocumentRoot /var/www/docs
    Header always set X-Content-Type-Options nosniff
    ErrorLog ${APACHE_LOG_DIR}/docs-error.log
</VirtualHost>
EOF

## modules and sites
a2enmod headers
a2dissite 000-default
a2ensite docs

## restart
apache2ctl configtest && systemctl restart apache2
