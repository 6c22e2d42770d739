;; A reactor that does what the first byte of its payload says:
;; s: loop for ever   x: trap   m: ask for 64 MiB more memory and trap if refused   c: count its own calls
;; o: answer bytes that it does not have   n: answer nothing   anything else: echo
(module
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (global $calls (mut i32) (i32.const 0))
  (func (export "alloc") (param $size i32) (result i32) (local $at i32)
    (local.set $at (global.get $next))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $next) (i32.shl (memory.size) (i32.const 16))))
      (br_if $fits (i32.ne (i32.const -1)
        (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
      (unreachable))
    (local.get $at))
  (func $packed (param $at i32) (param $length i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length))))
  (func (export "handle") (param $at i32) (param $length i32) (result i64) (local $first i32)
    (if (local.get $length) (then (local.set $first (i32.load8_u (local.get $at)))))
    (if (i32.eq (local.get $first) (i32.const 0x73)) (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $first) (i32.const 0x78)) (then (unreachable)))
    (if (i32.eq (local.get $first) (i32.const 0x6d))
      (then (if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then (unreachable)))))
    (if (i32.eq (local.get $first) (i32.const 0x63)) (then
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (i32.store (i32.const 2048) (i32.add (i32.load (i32.const 2048)) (global.get $calls)))
      (return (call $packed (i32.const 2048) (i32.const 4)))))
    (if (i32.eq (local.get $first) (i32.const 0x6f)) (then
      (return (call $packed (i32.const 0x7fffffff) (i32.const 1000)))))
    (if (i32.eq (local.get $first) (i32.const 0x6e)) (then (return (i64.const 0))))
    (call $packed (local.get $at) (local.get $length))))
