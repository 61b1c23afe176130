// long farpool_syscall(long number, long a, b, c, d, e, f): shuffles C arguments into the kernel's registers
// and enters the kernel through *farpool_syscall_entry, which ends in `ret`.
        .text
        .globl farpool_syscall
        .hidden farpool_syscall
        .type farpool_syscall, @function
farpool_syscall:
        .cfi_startproc
        mov %rdi, %rax
        mov %rsi, %rdi
        mov %rdx, %rsi
        mov %rcx, %rdx
        mov %r8, %r10
        mov %r9, %r8
        mov 8(%rsp), %r9
        jmp *farpool_syscall_entry(%rip)
        .cfi_endproc
        .size farpool_syscall, .-farpool_syscall

        .balign 16
        .type farpool_syscall_direct, @function
farpool_syscall_direct:
        syscall
        ret
        .balign 16
        syscall
        ret
        .size farpool_syscall_direct, .-farpool_syscall_direct

        .section .data.rel.local,"aw"
        .globl farpool_syscall_entry
        .hidden farpool_syscall_entry
        .align 8
        .type farpool_syscall_entry, @object
        .size farpool_syscall_entry, 8
farpool_syscall_entry:
        .quad farpool_syscall_direct
        .section .note.GNU-stack,"",@progbits
