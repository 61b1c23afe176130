// Where patched system call sites of libc and trapped system calls arrive. Registers are as for `syscall`, plus
// rcx = where to go on; like `syscall`, only rax, rcx and r11 are changed. Runs on the program's stack, below its
// red zone, with the program's signal mask: a blocking call is interrupted as ever.

        // Where signals of the program's can come they may between any two instructions, and the unwinder of its
        // handler (a cancelled thread's, a profiler's) must find the way out from there.

        // struct GuardFrame (guard.h), last member first; `resume` is on the stack already.
        .macro push_frame
        .irp register, r9, r8, r10, rdx, rsi, rdi, rax
        push %\register
        .cfi_adjust_cfa_offset 8
        .endr
        .endm

        // The rest of what push_frame pushed, once rax's place is left.
        .macro pop_arguments
        .irp register, rdi, rsi, rdx, r10, r8, r9
        pop %\register
        .cfi_adjust_cfa_offset -8
        .endr
        .endm

        // For unwinders (cancellation of a thread blocked in a call): who made the call stands in rcx, and made
        // it with the stack as it is.
        .macro start_frame
        .cfi_def_cfa %rsp, 0
        .cfi_register %rip, %rcx
        .endm
        .macro below_red_zone
        lea -128(%rsp), %rsp
        .cfi_def_cfa_offset 128
        push %rcx
        .cfi_def_cfa_offset 136
        .cfi_offset %rip, -136
        .endm
        .macro leave_red_zone
        pop %rcx
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rcx
        lea 128(%rsp), %rsp
        .cfi_def_cfa_offset 0
        .endm
        .macro keep_rbp
        push %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbp, 0
        mov %rsp, %rbp
        .cfi_def_cfa_register %rbp
        .endm
        // With rbp: struct KeptRegisters (guard.h), last member first.
        .macro keep_registers
        .irp register, rbx, r12, r13, r14, r15
        push %\register
        .endr
        .endm
        .macro restore_rbp
        mov %rbp, %rsp
        .cfi_def_cfa_register %rsp
        pop %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_same_value %rbp
        .endm

        .text

        // A patched site. Calls without far pointers go straight to the kernel.
        .globl farpool_site_entry
        .hidden farpool_site_entry
        .type farpool_site_entry, @function
farpool_site_entry:
        .cfi_startproc simple
        start_frame
        below_red_zone
        // From here to the syscall all that a call has is where it was, but for rcx on the stack (signals.cc).
        .globl farpool_site_looks, farpool_site_calls
        .hidden farpool_site_looks, farpool_site_calls
farpool_site_looks:
        lea farpool_syscall_always(%rip), %r11
        cmpb $0, (%r11,%rax)
        jne guarded
        // Far pointers are exactly those with bits 44.. == 3.
        .irp reg, rdi, rsi, rdx, r10, r8, r9
        mov %\reg, %r11
        shr $44, %r11
        cmp $3, %r11
        je guarded
        .endr
farpool_site_calls:
        syscall
        .cfi_remember_state
        leave_red_zone
        cmp $-4096, %rax                // As the patched site of read would next.
        jmp *%rcx

        // libc's syscall(): any call at all. Those that change the stack or share it must not pass through here:
        // they use the `syscall` instruction that is still in its place, just before rcx.
        .globl farpool_function_entry
        .hidden farpool_function_entry
farpool_function_entry:
        start_frame
        cmp $57, %rax                   // fork
        je farpool_trap_entry
        cmp $56, %rax                   // clone
        je 1f
        cmp $435, %rax                  // clone3
        je 1f
        cmp $512, %rax
        jae 2f
        cmp $58, %rax                   // vfork
        je 2f
        cmp $15, %rax                   // rt_sigreturn
        jne farpool_site_entry
2:      sub $2, %rcx
        jmp *%rcx
1:      sub $2, %rcx
        jmp farpool_clone_entry

        // A trapped call: the SIGSYS handler has set the interrupted context to go on here.
        .globl farpool_trap_entry
        .hidden farpool_trap_entry
farpool_trap_entry:
        // The call was made by anybody's code, which may hold wide vectors across it: all of them are kept, as
        // `syscall` would. (libc's own sites are inside functions that hold none.)
        start_frame
        below_red_zone
        push_frame
        mov farpool_xsave_bytes(%rip), %ecx
        test %ecx, %ecx
        jz keep_xmm
        mov %rsp, %rdi
        keep_rbp
        keep_registers
        sub %rcx, %rsp
        and $-64, %rsp
        // The header behind the 512 bytes of legacy state must be clean for xrstor.
        xor %eax, %eax
        mov %rax, 512(%rsp)
        mov %rax, 520(%rsp)
        mov %rax, 528(%rsp)
        mov %rax, 536(%rsp)
        mov %rax, 544(%rsp)
        mov %rax, 552(%rsp)
        mov %rax, 560(%rsp)
        mov %rax, 568(%rsp)
        mov $0xe6, %eax                 // SSE, AVX, opmask, both parts of ZMM
        xor %edx, %edx
        xsave64 (%rsp)
        cld
        call farpool_guard
        mov %rax, %rcx
        mov $0xe6, %eax
        xor %edx, %edx
        xrstor64 (%rsp)
        mov %rcx, %rax
        jmp leave

guarded:
        .cfi_restore_state
        push_frame
keep_xmm:
        mov %rsp, %rdi
        keep_rbp
        keep_registers
        // `syscall` keeps vector registers; C++ does not.
        sub $256, %rsp
        and $-64, %rsp
        movaps %xmm0, (%rsp)
        movaps %xmm1, 16(%rsp)
        movaps %xmm2, 32(%rsp)
        movaps %xmm3, 48(%rsp)
        movaps %xmm4, 64(%rsp)
        movaps %xmm5, 80(%rsp)
        movaps %xmm6, 96(%rsp)
        movaps %xmm7, 112(%rsp)
        movaps %xmm8, 128(%rsp)
        movaps %xmm9, 144(%rsp)
        movaps %xmm10, 160(%rsp)
        movaps %xmm11, 176(%rsp)
        movaps %xmm12, 192(%rsp)
        movaps %xmm13, 208(%rsp)
        movaps %xmm14, 224(%rsp)
        movaps %xmm15, 240(%rsp)
        cld
        call farpool_guard
        movaps (%rsp), %xmm0
        movaps 16(%rsp), %xmm1
        movaps 32(%rsp), %xmm2
        movaps 48(%rsp), %xmm3
        movaps 64(%rsp), %xmm4
        movaps 80(%rsp), %xmm5
        movaps 96(%rsp), %xmm6
        movaps 112(%rsp), %xmm7
        movaps 128(%rsp), %xmm8
        movaps 144(%rsp), %xmm9
        movaps 160(%rsp), %xmm10
        movaps 176(%rsp), %xmm11
        movaps 192(%rsp), %xmm12
        movaps 208(%rsp), %xmm13
        movaps 224(%rsp), %xmm14
        movaps 240(%rsp), %xmm15
leave:
        restore_rbp
        lea 8(%rsp), %rsp
        .cfi_adjust_cfa_offset -8
        pop_arguments
        leave_red_zone
        cmp $-4096, %rax
        jmp *%rcx
        .cfi_endproc
        .size farpool_site_entry, .-farpool_site_entry

        // libc's clones, the `syscall` instruction of each still in its place, at rcx: what only starts a thread is
        // made by that, since it changes the stack. A fork (fork.cc) is over when it comes back.
        .globl farpool_clone_entry
        .hidden farpool_clone_entry
        .type farpool_clone_entry, @function
farpool_clone_entry:
        .cfi_startproc simple
        start_frame
        push %rcx
        .cfi_def_cfa_offset 8
        .cfi_offset %rip, -8
        push_frame
        mov %rsp, %rdi
        keep_rbp
        and $-16, %rsp
        cld
        call farpool_clone
        mov %rax, %r11                  // Cloned (fork.cc)
        restore_rbp
        test %r11, %r11
        jz 1f
        mov %rdx, (%rsp)                // The result, and behind the instruction.
        addq $2, 56(%rsp)
1:      pop %rax
        .cfi_adjust_cfa_offset -8
        pop_arguments
        pop %rcx
        .cfi_def_cfa_offset 0
        .cfi_register %rip, %rcx
        cmp $1, %r11
        jbe 2f
        mov %r11, %rsp
2:      jmp *%rcx
        .cfi_endproc
        .size farpool_clone_entry, .-farpool_clone_entry

        // long farpool_on_stack(call, argument, top): call(argument) on another stack.
        .globl farpool_on_stack
        .hidden farpool_on_stack
        .type farpool_on_stack, @function
farpool_on_stack:
        .cfi_startproc
        push %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        mov %rsp, %rbp
        .cfi_def_cfa_register rbp
        mov %rdx, %rsp
        mov %rdi, %rax
        mov %rsi, %rdi
        call *%rax
        mov %rbp, %rsp
        pop %rbp
        .cfi_def_cfa rsp, 8
        ret
        .cfi_endproc
        .size farpool_on_stack, .-farpool_on_stack

        // long farpool_forward(const GuardFrame*, uint32_t* forwards): makes that call for the program and counts it. A
        // signal that comes between the two labels or at the trampoline's `syscall` finds it counted or not, but not
        // made.
        .globl farpool_forward, farpool_forward_end
        .hidden farpool_forward, farpool_forward_end
        .type farpool_forward, @function
farpool_forward:
        .cfi_startproc
        incl (%rsi)
        mov (%rdi), %rax
        mov 16(%rdi), %rsi
        mov 24(%rdi), %rdx
        mov 32(%rdi), %r10
        mov 40(%rdi), %r8
        mov 48(%rdi), %r9
        mov 8(%rdi), %rdi
        mov farpool_syscall_entry(%rip), %r11
        add $16, %r11                   // kProgramEntry
        jmp *%r11
farpool_forward_end:
        .cfi_endproc
        .size farpool_forward, .-farpool_forward

        // Where interrupted calls go on: as the trampoline, but known to unwinders. rcx is the call's.
        .globl farpool_call_again, farpool_own_call_again, farpool_call_done
        .hidden farpool_call_again, farpool_own_call_again, farpool_call_done
        .type farpool_call_again, @function
        .type farpool_own_call_again, @function
        .type farpool_call_done, @function
farpool_call_again:
        .cfi_startproc
        mov farpool_syscall_entry(%rip), %rcx
        lea 16(%rcx), %rcx              // kProgramEntry; `lea` leaves the flags alone.
        jmp *%rcx
farpool_own_call_again:
        mov farpool_syscall_entry(%rip), %rcx
        jmp *%rcx
farpool_call_done:
        ret
        .cfi_endproc
        .size farpool_call_again, farpool_own_call_again - farpool_call_again
        .size farpool_own_call_again, farpool_call_done - farpool_own_call_again
        .size farpool_call_done, .-farpool_call_done

        // What our own handlers return to.
        .globl farpool_sigreturn
        .hidden farpool_sigreturn
        .type farpool_sigreturn, @function
farpool_sigreturn:
        mov $15, %eax
        syscall
        .size farpool_sigreturn, .-farpool_sigreturn

        // What the program's handlers return to, with rsp at the frame's context. Unwinders (exceptions, thread
        // cancellation, backtrace) go through it: each register is found in the context.
        .macro in_context register, offset
        .cfi_escape 0x10, \register, 3, 0x77, (\offset & 0x7f) | 0x80, \offset >> 7
        .endm
        .globl farpool_restorer
        .hidden farpool_restorer
        .type farpool_restorer, @function
        .cfi_startproc simple
        .cfi_signal_frame
        .cfi_escape 0x0f, 4, 0x77, (160 & 0x7f) | 0x80, 160 >> 7, 0x06  // The interrupted rsp.
        in_context 8, 40
        in_context 9, 48
        in_context 10, 56
        in_context 11, 64
        in_context 12, 72
        in_context 13, 80
        in_context 14, 88
        in_context 15, 96
        in_context 5, 104               // rdi
        in_context 4, 112               // rsi
        in_context 6, 120               // rbp
        in_context 3, 128               // rbx
        in_context 1, 136               // rdx
        in_context 0, 144               // rax
        in_context 2, 152               // rcx
        in_context 7, 160               // rsp
        in_context 16, 168              // rip
        nop                             // Unwinders look up the byte before a return address.
farpool_restorer:
        cld
        mov %rsp, %rbx
        call farpool_near_top
        mov %rax, %rsp
        mov %rbx, %rdi
        call farpool_signal_return
        mov %rax, %rsp
        mov $15, %eax
        syscall
        .cfi_endproc
        .size farpool_restorer, .-farpool_restorer

        // Ends the fault handler as rt_sigreturn would, without the call. rdi: the kernel's frame, rsi: the thread's
        // word that says it was interrupted. What iretq takes is built below the frame and all else is read from
        // above it, so that a signal may interrupt at any point. Whoever is interrupted after the look at that word
        // goes on at farpool_fault_return_again (signals.cc).
        .globl farpool_fault_return
        .hidden farpool_fault_return
        .type farpool_fault_return, @function
        .macro from_frame register, offset
        mov 40+\offset(%rsp), %\register
        .endm
farpool_fault_return:
        lea -40(%rdi), %rsp
        cmpl $0, (%rsi)
        jne farpool_fault_return_again
        from_frame rdx, 232             // The vectors: as many as the kernel saved.
        mov 472(%rdx), %eax
        mov %rdx, %rcx
        mov 476(%rdx), %edx
        xrstor64 (%rcx)
        from_frame rax, 176
        mov %rax, (%rsp)                // rip
        movzwl 40+192(%rsp), %eax
        mov %rax, 8(%rsp)               // cs
        from_frame rax, 184
        mov %rax, 16(%rsp)              // flags
        from_frame rax, 168
        mov %rax, 24(%rsp)              // rsp
        movzwl 40+198(%rsp), %eax
        mov %rax, 32(%rsp)              // ss
        from_frame r8, 48
        from_frame r9, 56
        from_frame r10, 64
        from_frame r11, 72
        from_frame r12, 80
        from_frame r13, 88
        from_frame r14, 96
        from_frame r15, 104
        from_frame rdi, 112
        from_frame rsi, 120
        from_frame rbp, 128
        from_frame rbx, 136
        from_frame rdx, 144
        from_frame rax, 152
        from_frame rcx, 160
        iretq
        .globl farpool_fault_return_again
        .hidden farpool_fault_return_again
farpool_fault_return_again:
        lea 40(%rsp), %rdi
        call farpool_fault_return_slowly
        lea 48(%rsp), %rsp
        mov $15, %eax                   // rt_sigreturn
        syscall
        .size farpool_fault_return, .-farpool_fault_return

        .section .note.GNU-stack,"",@progbits
