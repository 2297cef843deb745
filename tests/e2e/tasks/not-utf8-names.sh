## what an old file server left
mkdir -p /srv/alt
printf 'x\n' >"$(printf '/srv/alt/caf\351.txt')"
printf 'y\n' >"$(printf '/srv/alt/two\nlines')"
printf 'z\n' >'/srv/alt/$HOME'
printf 'plain\n' >/srv/alt/plain.txt
ls -lb /srv/alt
