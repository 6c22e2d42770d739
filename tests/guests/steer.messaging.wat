;; A `wasmcloud:messaging` component that does what the first byte of the message says:
;; s: loop for ever   x: trap   m: ask for 64 MiB more memory and trap if refused   c: count its own calls
;; anything else: echo to whoever waits for an answer
(component
  (import "wasmcloud:messaging/types@0.2.0" (instance $types
    (type $shape (record (field "subject" string) (field "body" (list u8)) (field "reply-to" (option string))))
    (export "broker-message" (type (eq $shape)))))
  (alias export $types "broker-message" (type $message))
  (import "wasmcloud:messaging/consumer@0.2.0" (instance $consumer
    (alias outer 1 $message (type $outer))
    (export "broker-message" (type $own (eq $outer)))
    (export "publish" (func (param "msg" $own) (result (result (error string)))))))
  ;; Memory and room in it, for what the host hands over before the guest itself is there.
  (core module $libc
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 65536))
    (func (export "realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (block $fits
        (br_if $fits (i32.le_u (global.get $next) (i32.shl (memory.size) (i32.const 16))))
        (br_if $fits (i32.ne (i32.const -1)
          (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
        (unreachable))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $publish (canon lower (func $consumer "publish")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $module
    (import "libc" "memory" (memory 2))
    (import "host" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (global $calls (mut i32) (i32.const 0))
    (func (export "handle-message")
      (param $subject i32) (param $subject_length i32) (param $at i32) (param $length i32)
      (param $waits i32) (param $reply i32) (param $reply_length i32) (result i32)
      (local $first i32)
      (if (local.get $length) (then (local.set $first (i32.load8_u (local.get $at)))))
      (if (i32.eq (local.get $first) (i32.const 0x73)) (then (loop $for_ever (br $for_ever))))
      (if (i32.eq (local.get $first) (i32.const 0x78)) (then (unreachable)))
      (if (i32.eq (local.get $first) (i32.const 0x6d))
        (then (if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then (unreachable)))))
      (if (i32.eq (local.get $first) (i32.const 0x63)) (then
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 2048) (i32.add (i32.load (i32.const 2048)) (global.get $calls)))
        (local.set $at (i32.const 2048))
        (local.set $length (i32.const 4))))
      (if (local.get $waits) (then
        ;; What comes of it, here a result without or with a text, is what this function returns.
        (call $publish (local.get $reply) (local.get $reply_length) (local.get $at) (local.get $length)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))))
      (i32.const 16)))
  (core instance $instance (instantiate $module
    (with "libc" (instance $libc))
    (with "host" (instance (export "publish" (func $publish))))))
  (func $handle (param "msg" $message) (result (result (error string)))
    (canon lift (core func $instance "handle-message")
      (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (instance $handler (export "handle-message" (func $handle)))
  (export "wasmcloud:messaging/handler@0.2.0" (instance $handler)))
