#!/usr/bin/perl
# The workspace image's only program: serves /workspace over HTTP, one process per connection.
#
# It stands in for a user's real tool (an editor, a notebook): files, uploads, a durable counter, server-sent events and a
# WebSocket echo, so that everything a gateway must carry can be tried. Perl, because every Debian has it and an image
# can be made from the host's own copy, without a registry. Not a web server for anything else.
BEGIN { $SIG{TERM} = sub { exit 0 } }    # first of all: process 1 doesn't hear a signal that it has no handler for
use strict;
use warnings;
use Socket qw(PF_INET SOCK_STREAM SOL_SOCKET SO_REUSEADDR INADDR_ANY IPPROTO_TCP TCP_NODELAY SOMAXCONN sockaddr_in);
use Fcntl qw(LOCK_EX O_WRONLY O_CREAT O_APPEND O_TRUNC O_EXCL);
use IO::Handle;

my $ROOT = $ENV{WSCTL_WORKSPACE} || '/workspace';
my $PORT = $ENV{PORT} || 8080;
my $USER = defined $ENV{WSCTL_USER} ? $ENV{WSCTL_USER} : 'nobody';
my $VERSION = slurp('/VERSION') || "0\n";
chomp $VERSION;
my $HOST = slurp('/proc/sys/kernel/hostname') || "unknown\n";
chomp $HOST;
my %TYPE = (html => 'text/html; charset=utf-8', htm => 'text/html; charset=utf-8', txt => 'text/plain; charset=utf-8',
    json => 'application/json', css => 'text/css', js => 'text/javascript', svg => 'image/svg+xml', png => 'image/png');
my %REASON = (200 => 'OK', 201 => 'Created', 204 => 'No Content', 301 => 'Moved Permanently', 400 => 'Bad Request',
    403 => 'Forbidden', 404 => 'Not Found', 405 => 'Method Not Allowed', 411 => 'Length Required',
    500 => 'Internal Server Error', 507 => 'Insufficient Storage');
my ($client, $buffer) = (undef, '');

if (@ARGV && $ARGV[0] eq '--modules') {    # tells the image builder what this program needs
    print "$_\n" for values %INC;
    open my $maps, '<', '/proc/self/maps' or die "maps: $!";
    while (<$maps>) { print "$1\n" if m{(/\S+\.so\S*)$} }
    exit 0;
}
serve();

sub serve {
    $| = 1;
    socket(my $listener, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($listener, sockaddr_in($PORT, INADDR_ANY)) or die "bind to port $PORT: $!";
    listen($listener, SOMAXCONN) or die "listen: $!";
    setpgrp(0, 0);
    $SIG{CHLD} = 'IGNORE';                                                  # the kernel reaps, also for process 1
    $SIG{PIPE} = 'IGNORE';
    $SIG{TERM} = $SIG{INT} = sub { $SIG{TERM} = 'IGNORE'; kill 'TERM', -getpgrp(0); exit 0 };
    print "workspace of $USER on port $PORT, version $VERSION\n";
    while (1) {
        accept($client, $listener) or next;                                 # a signal interrupts accept: go on
        my $pid = fork;
        if (!defined $pid) { syswrite $client, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" }
        elsif (!$pid) {
            $SIG{TERM} = $SIG{INT} = 'DEFAULT';
            close $listener;
            setsockopt($client, IPPROTO_TCP, TCP_NODELAY, 1);
            1 while connection();
            exit 0;
        }
        close $client;
    }
}

# One request; true when the connection may carry another.
sub connection {
    my ($line, %header) = read_head();
    return 0 unless defined $line;
    my ($method, $target) = $line =~ m{^([A-Z]+) (\S+) HTTP/1\.[01]$} or return answer(400, 'text/plain', "bad request\n", 1);
    my ($raw, $query) = split /\?/, $target, 2;
    my %query = map { my ($k, $v) = split /=/, $_, 2; ($k => unescape(defined $v ? $v : '')) } split /&/, $query || '';
    $raw =~ s{^/ws/[^/]+(?=/|$)}{};                                         # the gateway may or may not strip it
    $raw = '/' if $raw eq '';
    my $path = unescape($raw);
    my %request = (method => $method, path => $path, raw => $target, query => \%query, header => \%header);
    my $close = lc($header{connection} || '') =~ /close/ || $line =~ m{1\.0$};
    my $status = route(\%request, $close);
    print "$method $target $status\n";
    return !$close && $status;
}

sub route {
    my ($r, $close) = @_;
    my $p = $r->{path};
    return websocket($r) if $p eq '/echo' && lc($r->{header}{upgrade} || '') eq 'websocket';
    return put($r, $close) if $r->{method} eq 'PUT';
    return append($r, $close) if $r->{method} eq 'POST' && $p eq '/append';
    return answer(405, 'text/plain', "method not allowed\n", 1) if $r->{method} !~ /^(GET|HEAD)$/;
    my $head = $r->{method} eq 'HEAD';
    return answer(200, 'text/plain', "ok\n", $close, $head) if $p eq '/healthz';
    return answer(200, 'application/json', whoami(), $close, $head) if $p eq '/whoami';
    return answer(200, 'text/plain', join('', "$r->{method} $r->{raw}\n",
            map { "$_: $r->{header}{$_}\n" } sort keys %{$r->{header}}), $close, $head) if $p eq '/headers';
    return events($r) if $p eq '/sse';
    return file($r, $close, $head);
}

sub whoami {
    return sprintf '{"hostname": %s, "user": %s, "pid": %d, "version": %s}' . "\n", quote($HOST), quote($USER), $$, quote($VERSION);
}

sub file {
    my ($r, $close, $head) = @_;
    my $path = safe($r->{path});
    return answer(403, 'text/plain', "forbidden\n", $close, $head) unless defined $path;
    if (-d $path) {
        if ($r->{path} !~ m{/$}) {
            (my $name = $r->{path}) =~ s{.*/}{};                            # relative: right with any prefix
            return answer(301, 'text/plain', "moved\n", $close, $head, 'Location: ' . escape($name) . "/\r\n");
        }
        my $front = $path eq $ROOT;
        $path .= '/index.html' if -f "$path/index.html";
        return answer(200, $TYPE{html}, listing($path, $front), $close, $head) if -d $path;
    }
    open my $in, '<:raw', $path or return answer(404, 'text/plain', "not found\n", $close, $head);
    my ($size, $left) = ((-s $in) || 0) x 2;
    my ($ext) = $path =~ /\.([a-z0-9]+)$/i;
    start(200, $TYPE{lc($ext || '')} || 'application/octet-stream', $size, $close);
    while (!$head && $left > 0) {
        my $got = sysread($in, my $chunk, $left < 65536 ? $left : 65536) or return 0;   # shrunk below us: cut the answer
        send_all($chunk) or return 0;
        $left -= $got;
    }
    return 200;
}

sub listing {
    my ($path, $front) = @_;
    opendir my $dir, $path or return "<p>unreadable\n";
    my @names = map { -d "$path/$_" ? "$_/" : $_ } grep { $_ ne '.' && $_ ne '..' } sort readdir $dir;
    my $rows = join '', map { '<li><a href="./' . escape($_) . '">' . html($_) . "</a>\n" } @names;
    my $title = $front ? 'Workspace of ' . html($USER) : 'Files';
    my $where = $front ? '<p>Container <code>' . html($HOST) . '</code>, image version ' . html($VERSION) . ".\n" : '';
    return "<!doctype html><title>$title</title>\n<h1>$title</h1>\n$where<ul>\n$rows</ul>\n";
}

sub put {
    my ($r, $close) = @_;
    my $path = safe($r->{path});
    return answer(403, 'text/plain', "forbidden\n", 1) if !defined $path || $path eq $ROOT || -d $path;
    my $dir = $ROOT;
    for my $part (split m{/}, substr($path, length($ROOT) + 1) =~ s{[^/]+$}{}r) { $dir .= "/$part"; mkdir $dir }
    my $new = "$path.put-$$";
    my $existed = -e $path;
    sysopen my $out, $new, O_WRONLY | O_CREAT | O_EXCL, 0644 or return answer($!{ENOSPC} ? 507 : 500, 'text/plain', "open: $!\n", 1);
    my $ok = body($r, sub { my $n = syswrite $out, $_[0]; defined $n && $n == length $_[0] });
    my $why = "$!";
    if (!$ok || !close $out || !rename $new, $path) { unlink $new; return answer(507, 'text/plain', "write: $why\n", 1) }
    return answer($existed ? 200 : 201, 'text/plain', "saved\n", $close);
}

# Appends one line and answers only once it is on disk: what the tests count as an acknowledged write.
sub append {
    my ($r, $close) = @_;
    my $path = safe('/' . ($r->{query}{file} || 'counter'));
    return answer(403, 'text/plain', "forbidden\n", 1) if !defined $path || $path eq $ROOT;
    my $line = '';
    body($r, sub { $line .= $_[0]; length $line < 1_000_000 }) or return answer(400, 'text/plain', "bad body\n", 1);
    $line =~ s/\n?\z/\n/;
    sysopen my $out, $path, O_WRONLY | O_CREAT | O_APPEND, 0644 or return answer(500, 'text/plain', "open: $!\n", 1);
    flock $out, LOCK_EX;
    my $wrote = syswrite $out, $line;
    return answer(507, 'text/plain', "write: $!\n", 1) unless defined $wrote && $wrote == length $line && $out->sync;
    return answer(200, 'text/plain', (-s $out) . "\n", $close);
}

# `?n=` events, `?ms=` apart.
sub events {
    my ($r) = @_;
    my $count = ($r->{query}{n} || '') =~ /^(\d{1,6})$/ ? $1 : 3;
    my $pause = ($r->{query}{ms} || '') =~ /^(\d{1,6})$/ ? $1 : 50;
    send_all("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n") or return 0;
    for my $n (1 .. $count) {
        send_all("id: $n\ndata: {\"user\": " . quote($USER) . ", \"n\": $n}\n\n") or return 0;
        select undef, undef, undef, $pause / 1000 if $n < $count;
    }
    return 0;
}

# --- HTTP ---------------------------------------------------------------------------------------------------------

sub more {
    my ($seconds) = @_;
    my $bits = '';
    vec($bits, fileno $client, 1) = 1;
    return 0 unless select($bits, undef, undef, $seconds || 75) > 0;
    return sysread($client, $buffer, 65536, length $buffer) || 0;
}

sub read_head {
    while ($buffer !~ /\r?\n\r?\n/) { return if length $buffer > 65536 || !more() }
    $buffer =~ s/\A(?:\r?\n)*(.*?)\r?\n\r?\n//s or return;
    my ($line, @rest) = split /\r?\n/, $1;
    my %header;
    for (@rest) { $header{lc $1} = exists $header{lc $1} ? "$header{lc $1}, $2" : $2 if /^([^:\s]+):\s*(.*?)\s*$/ }
    return ($line, %header);
}

# Feeds the request's body to a sub; false when the peer went away or the sub refused.
sub body {
    my ($r, $sink) = @_;
    send_all("HTTP/1.1 100 Continue\r\n\r\n") if lc($r->{header}{expect} || '') eq '100-continue';
    if (lc($r->{header}{'transfer-encoding'} || '') eq 'chunked') {
        while (1) {
            while ($buffer !~ /\r\n/) { more() or return 0 }
            $buffer =~ s/\A([0-9a-fA-F]{1,8})[^\r\n]*\r\n// or return 0;
            my $size = hex $1;
            counted($size, $sink) or return 0;
            while (length $buffer < 2) { more() or return 0 }
            $buffer =~ s/\A\r\n// or return 0;
            return 1 if $size == 0;
        }
    }
    my $size = defined $r->{header}{'content-length'} ? $r->{header}{'content-length'} : 0;
    return $size =~ /^\d{1,15}$/ && counted($size, $sink);
}

sub counted {
    my ($left, $sink) = @_;
    while ($left > 0) {
        $buffer ne '' or more() or return 0;
        my $part = substr $buffer, 0, $left, '';
        $left -= length $part;
        $sink->($part) or return 0;
    }
    return 1;
}

sub start {
    my ($status, $type, $length, $close, $extra) = @_;
    return send_all("HTTP/1.1 $status $REASON{$status}\r\nContent-Type: $type\r\nContent-Length: $length\r\n" . ($extra || '')
            . ($close ? "Connection: close\r\n" : '') . "\r\n");
}

# Returns the status, or 0 when the connection must not be used again.
sub answer {
    my ($status, $type, $text, $close, $head, $extra) = @_;
    start($status, $type, length $text, $close, $extra) && ($head || send_all($text)) or return 0;
    if ($close && $status >= 400) {     # let an answer that came before the body's end reach the peer: no reset
        shutdown $client, 1;
        my $deadline = time + 2;
        while (time < $deadline && more(1)) { $buffer = '' }
        exit 0;
    }
    return $status;
}

sub send_all {
    my ($data) = @_;
    my $at = 0;
    while ($at < length $data) {
        my $n = syswrite $client, $data, length($data) - $at, $at;
        next if !defined $n && $!{EINTR};
        return 0 unless $n;
        $at += $n;
    }
    return 1;
}

# --- WebSocket ----------------------------------------------------------------------------------------------------

sub websocket {
    my ($r) = @_;
    my $key = $r->{header}{'sec-websocket-key'} or return answer(400, 'text/plain', "no key\n", 1);
    my $accept = substr pack('u', sha1($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11')), 1;
    $accept =~ tr#` -_\n#AA-Za-z0-9+/#d;                                    # uuencode's alphabet to base64's
    $accept = substr($accept, 0, 27) . '=';
    send_all("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: $accept\r\n\r\n")
        or return 0;
    while (my ($fin, $op, $data) = frame()) {
        if ($op == 8) { send_frame(1, 8, substr $data, 0, 125); return 0 }
        if ($op == 9) { $op = 10 }                                          # ping: pong
        elsif ($op == 10) { next }
        send_frame($fin, $op, $data) or return 0;                           # fragments go back as fragments
    }
    return 0;
}

sub need {
    my ($n) = @_;
    while (length $buffer < $n) { more(3600) or return 0 }
    return 1;
}

sub frame {
    need(2) or return;
    my ($first, $second) = unpack 'CC', substr $buffer, 0, 2, '';
    my $size = $second & 127;
    if ($size == 126) { need(2) or return; $size = unpack 'n', substr $buffer, 0, 2, '' }
    elsif ($size == 127) { need(8) or return; $size = unpack 'Q>', substr $buffer, 0, 8, '' }
    return if $size > 16 << 20 || !($second & 128);                         # a client must mask
    need(4 + $size) or return;
    my $mask = substr $buffer, 0, 4, '';
    my $data = substr $buffer, 0, $size, '';
    $data ^= substr($mask x (int($size / 4) + 1), 0, $size);
    return ($first >> 7, $first & 15, $data);
}

sub send_frame {
    my ($fin, $op, $data) = @_;
    my $size = length $data;
    my $head = pack 'C', ($fin << 7) | $op;
    $head .= $size < 126 ? pack('C', $size) : $size < 65536 ? pack('Cn', 126, $size) : pack('CQ>', 127, $size);
    return send_all($head . $data);
}

# perl-base has no Digest::SHA; RFC 3174 as it stands there.
sub sha1 {
    my ($text) = @_;
    my @h = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0);
    my $padded = $text . "\x80" . "\0" x ((55 - length $text) % 64) . pack 'Q>', 8 * length $text;
    my $rotate = sub { (($_[0] << $_[1]) | ($_[0] >> (32 - $_[1]))) & 0xFFFFFFFF };
    for my $block (unpack '(a64)*', $padded) {
        my @w = unpack 'N16', $block;
        push @w, $rotate->($w[-3] ^ $w[-8] ^ $w[-14] ^ $w[-16], 1) while @w < 80;
        my ($a, $b, $c, $d, $e) = @h;
        for my $t (0 .. 79) {
            my ($f, $k) = $t < 20 ? (($b & $c) | (~$b & $d), 0x5A827999) : $t < 40 ? ($b ^ $c ^ $d, 0x6ED9EBA1)
                : $t < 60 ? (($b & $c) | ($b & $d) | ($c & $d), 0x8F1BBCDC) : ($b ^ $c ^ $d, 0xCA62C1D6);
            my $next = ($rotate->($a, 5) + ($f & 0xFFFFFFFF) + $e + $k + $w[$t]) & 0xFFFFFFFF;
            ($a, $b, $c, $d, $e) = ($next, $a, $rotate->($b, 30), $c, $d);
        }
        my @add = ($a, $b, $c, $d, $e);
        $h[$_] = ($h[$_] + $add[$_]) & 0xFFFFFFFF for 0 .. 4;
    }
    return pack 'N5', @h;
}

# --- Text ---------------------------------------------------------------------------------------------------------

# The file a path means, or undef when it would leave the workspace.
sub safe {
    my ($path) = @_;
    return if $path =~ /\0/;
    my @parts = grep { $_ ne '' && $_ ne '.' } split m{/}, $path;
    return if grep { $_ eq '..' } @parts;
    return join '/', $ROOT, @parts;
}

sub unescape { my ($s) = @_; $s =~ s/%([0-9a-fA-F]{2})/chr hex $1/ge; return $s }
sub escape { my ($s) = @_; $s =~ s{([^A-Za-z0-9._~/-])}{sprintf '%%%02X', ord $1}ge; return $s }
sub html { my ($s) = @_; $s =~ s/&/&amp;/g; $s =~ s/</&lt;/g; $s =~ s/>/&gt;/g; $s =~ s/"/&quot;/g; return $s }
sub quote { my ($s) = @_; $s =~ s/([\\"])/\\$1/g; $s =~ s/([\0-\x1f])/sprintf '\\u%04x', ord $1/ge; return "\"$s\"" }
sub slurp { open my $in, '<', $_[0] or return; local $/; return scalar <$in> }
