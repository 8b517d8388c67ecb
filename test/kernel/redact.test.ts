import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { expect, it } from 'vitest';
import { createRedactor } from '#kernel/redact.ts';

const secret = 'p@ss/w0rd+ü "quoted"';

it('masks a value in all its forms', () => {
  const redactor = createRedactor([secret]);
  const basic = Buffer.from(`user:${secret}`).toString('base64');
  for (const form of [
    secret,
    encodeURIComponent(secret),
    new URLSearchParams({ v: secret }).toString().slice(2),
    encodeURIComponent(secret).replaceAll(/%../g, (escape) => escape.toLowerCase()),
    Buffer.from(secret).toString('base64'),
    Buffer.from(secret).toString('base64url'),
    JSON.stringify(secret).slice(1, -1),
  ]) {
    expect(redactor.redact(`a ${form} b ${form}`)).toBe('a [redacted] b [redacted]');
  }
  const masked = redactor.redact(`Authorization: Basic ${basic}`);
  expect(masked).toContain('[redacted]');
  // What is left must not give more than a character of the value back.
  expect(Buffer.from(masked.replace('[redacted]', ' ').split(' ').at(2) ?? '', 'base64').toString()).not.toContain(
    'p@',
  );
});

it('masks each line of a value that has several', () => {
  const key = '-----BEGIN KEY-----\nMIIEvQIBADANBgkqhki\nG9w0BAQEFAASC\n-----END KEY-----';
  const out = createRedactor([key]).redact('1 | MIIEvQIBADANBgkqhki\n2 | G9w0BAQEFAASC\n');
  expect(out).toBe('1 | [redacted]\n2 | [redacted]\n');
});

it('leaves text without secrets, short values, and special characters of patterns alone', () => {
  expect(createRedactor([]).redact('nothing')).toBe('nothing');
  expect(createRedactor(['short', 'a', '']).redact('a short text')).toBe('a short text');
  expect(createRedactor(['.*.*.*']).redact('xyzxyz .*.*.* $&')).toBe('xyzxyz [redacted] $&');
});

it.each([
  [['secret1', 'secret123'], 'secret123 secret1 secret12', '[redacted] [redacted] [redacted]2'],
  [['abcdef', 'xabcdefghi'], 'xabcdefghi xabcdef', '[redacted] x[redacted]'],
  [['abcabcab', 'cabxyz123'], 'abcabcabxyz123!', '[redacted]!'],
  [['aaaaaa'], 'aaaaaaaa b aaaaa', '[redacted] b aaaaa'],
  [['abcdef'], 'abcdefabcdef', '[redacted][redacted]'],
])('masks %j in %j', (secrets, given, expected) => {
  expect(createRedactor(secrets).redact(given)).toBe(expected);
});

it('finds the same however the text is split', () => {
  const redactor = createRedactor(['secret1', 'secret123', 'aaaaaa', 'abcabcab', 'cabxyz123', 'xxsecret1yy']);
  const pieces = ['secret1', 'secret123', 'aaa', 'abc', 'ab', 'cabxyz', '123', ' ', '\n', 'xx', 'yy', 'secr', 'é'];
  let seed = 11;
  const random = (n: number): number => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) % n;
  for (let round = 0; round < 400; round++) {
    const given = Array.from({ length: 12 }, () => pieces[random(pieces.length)] ?? '').join('');
    const whole = redactor.redact(given);
    const session = redactor.session();
    let out = '';
    for (let at = 0; at < given.length;) {
      const size = 1 + random(6);
      out += session.push(given.slice(at, at + size));
      at += size;
    }
    expect(out + session.end()).toBe(whole);
    expect(whole).not.toMatch(/secret1|aaaaaa|abcabcab|cabxyz123/);
  }
});

it('works on a stream of bytes, also where a character is split', async () => {
  const bytes = Buffer.from(`über ${secret} – ${secret}`);
  const chunks = Array.from(bytes, (_, i) => bytes.subarray(i, i + 1));
  expect(await text(Readable.from(chunks).pipe(createRedactor([secret]).stream()))).toBe(
    'über [redacted] – [redacted]',
  );
});

it('gives text out at once when it cannot be part of a secret', () => {
  const session = createRedactor(['secret1']).session();
  expect(session.push('Building… ')).toBe('Building… ');
  expect(session.push('se')).toBe('');
  expect(session.push('ven')).toBe('seven');
  expect(session.end()).toBe('');
});
