## a release, unpacked beside the former ones
mkdir -p /opt/tool-2.1/bin /opt/tool-2.1/share/lang
printf '#!/bin/sh\nexec echo tool 2.1 "$@"\n' >/opt/tool-2.1/bin/tool
chmod 0755 /opt/tool-2.1/bin/tool
for n in $(seq 1 40); do printf 'message %s\n' "$n" >/opt/tool-2.1/share/lang/$n.msg; done
ln -sfn tool-2.1 /opt/tool
ln -s /opt/tool/bin/tool /usr/local/bin/tool
tool --version
