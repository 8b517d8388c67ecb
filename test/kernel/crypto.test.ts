import { describe, expect, it, vi } from 'vitest';
import {
  canonicalJson,
  hashApiKey,
  isApiKey,
  hashPassword,
  needsRehash,
  newApiKey,
  sha256Hex,
  timingSafeEqualText,
  verifyPassword,
} from '#kernel/crypto.ts';

/** The work of every derivation of a key from a password: all that the time that it takes depends on. */
const derived = vi.hoisted(() => [] as object[]);
const running = vi.hoisted(() => ({ now: 0, most: 0 }));
vi.mock('node:crypto', async (original) => {
  const crypto = await original<typeof import('node:crypto')>();
  const argon2: typeof crypto.argon2 = (algorithm, parameters, done) => {
    const { memory, passes, parallelism, tagLength, message, nonce } = parameters;
    const [messageBytes, nonceBytes] = [message, nonce].map((of) => Buffer.from(of as Buffer).length);
    derived.push({ algorithm, memory, passes, parallelism, tagLength, messageBytes, nonceBytes });
    running.most = Math.max(running.most, ++running.now);
    crypto.argon2(algorithm, parameters, (error, key) => {
      running.now--;
      done(error, key);
    });
  };
  const argon2Sync = () => {
    throw new Error('holds up the event loop');
  };
  return { ...crypto, argon2, argon2Sync, default: { ...crypto, argon2, argon2Sync } };
});

describe('passwords', () => {
  it('hashes with argon2id and verifies', async () => {
    const stored = await hashPassword('correct horse');
    expect(stored).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
    expect(await hashPassword('correct horse')).not.toBe(stored);
    expect(await verifyPassword(stored, 'correct horse')).toBe(true);
    expect(await verifyPassword(stored, 'correct horse ')).toBe(false);
    expect(await verifyPassword(stored, '')).toBe(false);
    expect(needsRehash(stored)).toBe(false);
  });

  it('takes hashes of other argon2id implementations, and asks to renew weaker ones', async () => {
    // From the test suite of the reference implementation: password, salt "somesalt", m=2^16, t=2, p=1.
    const foreign = '$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc';
    expect(await verifyPassword(foreign, 'password')).toBe(true);
    expect(await verifyPassword(foreign, 'Password')).toBe(false);
    expect(needsRehash(foreign)).toBe(true);
  });

  it('knows a password however its characters are composed', async () => {
    expect(await verifyPassword(await hashPassword('caf\u00e9'), 'cafe\u0301')).toBe(true);
  });

  it('does the same work for a user that does not exist', async () => {
    const stored = await hashPassword('x');
    derived.length = 0;
    expect(await verifyPassword(stored, 'y')).toBe(false);
    expect(await verifyPassword(null, 'y')).toBe(false);
    expect(derived).toHaveLength(2);
    expect(derived[1]).toEqual(derived[0]);
    expect(await verifyPassword(null, '')).toBe(false);
  });

  it('derives keys on a thread of its own, which leaves the event loop alone', async () => {
    derived.length = 0;
    await verifyPassword(await hashPassword('x'), 'x');
    expect(derived).toHaveLength(2);
  });

  it('leaves threads to everybody else, however many sign in at once', async () => {
    const stored = await hashPassword('x');
    running.most = 0;
    const tries = Array.from({ length: 6 }, (_, i) => verifyPassword(stored, i % 2 === 0 ? 'x' : 'y'));
    expect(await Promise.all(tries)).toEqual([true, false, true, false, true, false]);
    expect(running).toEqual({ now: 0, most: 2 });
  });

  it.each([
    '',
    'plain',
    '$2b$10$abcdefghijklmnopqrstuv',
    '$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '$argon2id$v=16$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '$argon2id$v=19$m=9999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '$argon2id$v=19$m=19456,t=99,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '$argon2id$v=19$m=19456,t=2,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
    '$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$',
    '$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc\n',
  ])('refuses the stored hash %j', async (stored) => {
    await expect(verifyPassword(stored, 'password')).rejects.toThrow('not an argon2id PHC string');
    expect(() => needsRehash(stored)).toThrow('not an argon2id PHC string');
  });
});

describe('API keys', () => {
  it('have 256 random bits, and are stored as prefix and hash', () => {
    const { key, prefix, hash } = newApiKey();
    expect(key).toMatch(/^sy_[A-Za-z0-9_-]{43}[A-Za-z0-9]{6}$/);
    expect(prefix).toBe(key.slice(0, 11));
    expect(hash).toBe(hashApiKey(key));
    expect(hash).toMatch(/^[\da-f]{64}$/);
    expect(newApiKey().key).not.toBe(key);
  });

  it('carry a checksum, which keys of before did not', () => {
    const { key } = newApiKey();
    expect(isApiKey(key)).toBe(true);
    expect(isApiKey(key.slice(0, 46))).toBe(true);
    for (const [from, to] of [
      [4, 5],
      [20, 21],
      [46, 47],
      [51, 52],
    ] as const) {
      const other = key[from] === 'A' ? 'B' : 'A';
      expect(isApiKey(key.slice(0, from) + other + key.slice(to))).toBe(false);
    }
    for (const text of ['', 'sy_', `${key}A`, ` ${key}`, key.slice(1), key.slice(0, 50)])
      expect(isApiKey(text)).toBe(false);
  });
});

it('sha256Hex takes text as UTF-8', () => {
  expect(sha256Hex('')).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
  expect(sha256Hex('é')).toBe(sha256Hex(new Uint8Array([0xc3, 0xa9])));
});

it.each([
  ['', '', true],
  ['a', 'a', true],
  ['a', 'b', false],
  ['a', 'aa', false],
  ['é', 'e\u0301', false],
])('timingSafeEqualText(%j, %j) is %j', (a, b, same) => {
  expect(timingSafeEqualText(a, b)).toBe(same);
});

describe('canonicalJson', () => {
  it('orders members by UTF-16 code units, as RFC 8785 shows', () => {
    const value = { '\u20ac': 1, '\r': 2, '\ufb33': 3, '1': 4, '\ud83d\ude00': 5, '\u0080': 6, '\u00f6': 7 };
    expect(canonicalJson(value)).toBe('{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\ud83d\ude00":5,"\ufb33":3}');
    expect(canonicalJson([Number('333333333.33333329'), 1e30, 4.5, 2e-3, 1e-27, -0])).toBe(
      '[333333333.3333333,1e+30,4.5,0.002,1e-27,0]',
    );
  });

  it('gives equal values equal texts, whatever the order of their members', () => {
    // A small linear congruential generator, so that a failure comes again.
    let seed = 7;
    const random = (n: number): number => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) % n;
    const make = (depth: number): unknown => {
      const kind = random(depth > 0 ? 6 : 4);
      if (kind === 0) return random(1000) / 8;
      if (kind === 1) return `\u{1f600}"${random(99)}`;
      if (kind === 2) return null;
      if (kind === 3) return random(2) === 0;
      const parts = Array.from({ length: random(5) }, () => make(depth - 1));
      return kind === 4 ? parts : Object.fromEntries(parts.map((part, i) => [`${'zyxwv'[i] ?? ''}${random(9)}`, part]));
    };
    const reversed = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(reversed);
      if (typeof value !== 'object' || value === null) return value;
      return Object.fromEntries(
        Object.entries(value)
          .toReversed()
          .map(([name, member]) => [name, reversed(member)]),
      );
    };
    for (let i = 0; i < 300; i++) {
      const value = make(4);
      const text = canonicalJson(value);
      expect(canonicalJson(reversed(value))).toBe(text);
      expect(JSON.parse(text)).toEqual(value);
    }
  });

  it('leaves out undefined members and calls toJSON', () => {
    expect(canonicalJson({ b: undefined, a: new Date(0) })).toBe('{"a":"1970-01-01T00:00:00.000Z"}');
    expect(canonicalJson(JSON.parse('{"__proto__":{"x":1}}'))).toBe('{"__proto__":{"x":1}}');
  });

  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  it.each([
    ['NaN', Number.NaN],
    ['an infinity', { a: [-Infinity] }],
    ['undefined', undefined],
    ['a hole', [undefined]],
    ['a bigint', 1n],
    ['a function', () => 1],
    ['a symbol', Symbol('x')],
    ['a cycle', cycle],
    ['what is nested too deeply', JSON.parse('['.repeat(600) + ']'.repeat(600))],
  ])('refuses %s', (_, value) => {
    expect(() => canonicalJson(value)).toThrow(TypeError);
  });
});
