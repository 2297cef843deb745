## what a virtual environment needs
apt-get -q -y install python3-venv

## a user and a home for the service
useradd --system --home-dir /opt/hello --shell /usr/sbin/nologin hello
install -d -o hello -g hello /opt/hello
python3 -m venv --without-pip /opt/hello/venv

## the program
cat >/opt/hello/hello.py <<'EOF'
from http.server import BaseHTTPRequestHandler, HTTPServer


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write("Grüß Gott\n".encode())


HTTPServer(("127.0.0.1", 8080), Hello).serve_forever()
EOF

## the service
cat >/etc/systemd/system/hello.service <<'EOF'
[Unit]
Description=Hello
After=network.target

[Service]
User=hello
ExecStart=/opt/hello/venv/bin/python /opt/hello/hello.py
Restart=on-failure

[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload
systemctl enable --now hello
sleep 3
python3 -c 'import urllib.request as u; o = u.build_opener(u.ProxyHandler({})); print(o.open("http://127.0.0.1:8080/").read().decode())'
