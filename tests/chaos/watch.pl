# Runs on a node: prints what its kernel holds under a prefix, whenever the kernel's policy changes.
# `perl -e TEXT PREFIX`; one JSON document a line: {"revision", "held": {name: [mode, hash]}}.
# A line on its input is answered by {"pong": LINE}, after every change that was there before it.
use strict;
use warnings;
use Fcntl;
use IO::Select;

my ($prefix) = @ARGV;
my $root = "/sys/kernel/security/apparmor";
$| = 1;

sub content {
    open(my $file, "<", $_[0]) or return "";
    my $line = <$file>;
    chomp($line //= "");
    return $line;
}

sub quoted {
    my ($text) = @_;
    $text =~ s/(["\\])/\\$1/g;
    return "\"$text\"";
}

# The kernel gives its count only between two changes: it waits for the one that is under way.
sub revision {
    sysopen(my $file, "$root/revision", O_RDONLY | O_NONBLOCK) or return "";
    sysread($file, my $count, 64);
    chomp($count //= "");
    return $count;
}

sub held {
    my @found;
    for my $folder (glob("$root/policy/profiles/$prefix*")) {
        my ($name, $mode) = (content("$folder/name"), content("$folder/mode"));
        my $hash = content("$folder/raw_sha256") || content("$folder/raw_sha1");
        push @found, quoted($name) . ":[" . quoted($mode) . "," . quoted($hash) . "]" if $name ne "";
    }
    return "{" . join(",", @found) . "}";
}

sysopen(my $changes, "$root/revision", O_RDONLY | O_NONBLOCK) or die "no AppArmor here\n";
my $select = IO::Select->new($changes, \*STDIN);
my ($last, $input) = ("", "");
while (1) {
    while ((my $now = revision()) ne $last) {
        my $found = held();
        next if revision() ne $now;    # it moved while it was read: again
        print "{\"revision\":\"$now\",\"held\":$found}\n";
        $last = $now;
    }
    print "{\"pong\":\"$1\"}\n" while $input =~ s/^(\w*)\n//;
    for my $ready ($select->can_read(60)) {
        if ($ready == $changes) { sysread($changes, my $seen, 64) }
        else { sysread(STDIN, $input, 4096, length $input) or exit }    # who listened is gone
    }
}
