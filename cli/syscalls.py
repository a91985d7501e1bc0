"""The system calls that ordinary programs make, for the seccomp profile that `hauberk new` starts with. Pure.

Grouped by what they are for, so that who edits the profile sees what to take away. Not in it: what changes
the node itself (mount, modules, clocks, swap, reboot), other processes' memory (ptrace), keys, bpf, perf,
userfaultfd, io_uring and new namespaces (`NAMESPACES`).
"""

from __future__ import annotations

ORDINARY: dict[str, str] = {
    "files": """
        access chdir chmod chown chroot close close_range copy_file_range creat dup dup2 dup3 faccessat
        faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
        fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd
        getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
        lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir
        mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev
        pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir
        sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee
        truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
    """,
    "memory": """
        brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal
        msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    """,
    "processes": """
        arch_prctl capget capset execve execveat exit exit_group fork get_robust_list getegid geteuid
        getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit
        getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule
        landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 rseq
        rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
        sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
        sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
        set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid
        setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill tkill vfork wait4 waitid
    """,
    "time": """
        alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause
        restart_syscall setitimer time timer_create timer_delete timer_getoverrun timer_gettime
        timer_settime timerfd_create timerfd_gettime timerfd_settime times
    """,
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 futex
        futex_waitv io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit poll ppoll
        pselect6 select signalfd signalfd4
    """,
    "network": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
        sendmmsg sendmsg sendto setsockopt shutdown socket socketpair
    """,
    "between processes": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv
        msgsnd pipe pipe2 semctl semget semop semtimedop shmat shmctl shmdt shmget
    """,
    "system": """
        getcpu getrandom sysinfo uname
    """,
}

# The flags by which clone(2) makes namespaces (CLONE_NEW*, linux/sched.h): a process is made without them.
NAMESPACES = 0x7E020000
# clone3(2) has its flags in memory, where no filter sees them. By this answer libraries fall back on clone.
ENOSYS = 38
