import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { defineSealedColumn, sealedColumns } from '#kernel/sealing/columns.ts';
import { SealBroken, UnknownKey } from '#kernel/sealing/errors.ts';
import { configuredKeys, decrypt, encrypt, generatedKey } from '#kernel/sealing/key-ring.ts';
import { parseKeys, type EncryptionKey } from '#kernel/sealing/keys.ts';
import { createSealing } from '#kernel/sealing/sealing.ts';

const key = (kid: string): EncryptionKey => ({ kid, key: randomBytes(32) });
const [k1, k2] = [key('k1'), key('k2')];
const sealing = createSealing(configuredKeys([k1]));
const context = 'sso_connection.client_secret:0190';
const secret = 'hunter2 – käse 🧀';

describe('a sealed value', () => {
  it('opens where it was sealed for', async () => {
    const sealed = await sealing.seal(secret, context);
    expect(sealed).toMatch(/^v1\.k1\.[\w-]{80}\.[\w-]{16}\.[\w-]+$/);
    expect(await sealing.openText(sealed, context)).toBe(secret);
    expect((await sealing.open(sealed, context)).toString()).toBe(secret);
    for (const plain of ['', 'x'.repeat(1_000_000)]) {
      expect(await sealing.openText(await sealing.seal(plain, context), context)).toBe(plain);
    }
    const bytes = randomBytes(1000);
    expect(await sealing.open(await sealing.seal(bytes, context), context)).toEqual(bytes);
  });

  it('shows nothing of the text, and is another each time', async () => {
    const all = await Promise.all(Array.from({ length: 50 }, () => sealing.seal(secret, context)));
    const parts = all.flatMap((sealed) => sealed.split('.').slice(2));
    // Data keys, initialization vectors and ciphertexts: none is ever used again.
    expect(new Set(parts).size).toBe(150);
    expect(all.join()).not.toContain(Buffer.from(secret).toString('base64url').slice(0, 8));
  });

  it.each(['sso_connection.client_secret:0191', 'sso_connection.other:0190', '', `${context} `])(
    'does not open as %j',
    async (elsewhere) => {
      const sealed = await sealing.seal(secret, context);
      await expect(sealing.open(sealed, elsewhere)).rejects.toBeInstanceOf(SealBroken);
      await expect(sealing.rewrap(sealed, elsewhere)).rejects.toBeInstanceOf(SealBroken);
    },
  );

  it('does not open with any part of another one in it', async () => {
    const [mine, other] = [await sealing.seal(secret, context), await sealing.seal(secret, context)];
    for (const at of [2, 3, 4]) {
      const mixed = mine
        .split('.')
        .with(at, other.split('.')[at] ?? '')
        .join('.');
      await expect(sealing.open(mixed, context)).rejects.toBeInstanceOf(SealBroken);
    }
  });

  it('does not open when any character of it was changed, or it was cut or lengthened anywhere', async () => {
    const sealed = await sealing.seal('short', context);
    const broken: string[] = [];
    for (let at = 0; at < sealed.length; at++) {
      const other = sealed[at] === 'A' ? 'B' : 'A';
      broken.push(sealed.slice(0, at) + other + sealed.slice(at + 1));
      broken.push(sealed.slice(0, at), sealed.slice(0, at) + sealed.slice(at + 1));
      broken.push(`${sealed.slice(0, at)}A${sealed.slice(at)}`);
    }
    const parts = sealed.split('.');
    // A shorter tag, which is easier to guess, is no tag.
    broken.push(
      parts
        .with(
          4,
          Buffer.from(parts[4] ?? '', 'base64url')
            .subarray(0, -12)
            .toString('base64url'),
        )
        .join('.'),
    );
    broken.push(
      `${sealed}=`,
      `${sealed}.`,
      ` ${sealed}`,
      sealed.replaceAll('-', '+').replaceAll('_', '/') + '\n',
      'plain',
    );
    for (const text of broken.filter((one) => one !== sealed)) {
      const error: unknown = await sealing.open(text, context).catch((thrown: unknown) => thrown);
      // A changed key id names another key.
      expect([text, error instanceof SealBroken || error instanceof UnknownKey]).toEqual([text, true]);
    }
  });

  it('tells which key is missing, and never a secret', async () => {
    const sealed = await createSealing(configuredKeys([k2])).seal(secret, context);
    await expect(sealing.open(sealed, context)).rejects.toMatchObject({ code: 'SEALING_KEY_UNKNOWN', kid: 'k2' });
    const impostor = createSealing(configuredKeys([key('k2')]));
    const error = await impostor.open(sealed, context).catch((thrown: unknown) => thrown as Error);
    expect(error).toMatchObject({ code: 'SEAL_BROKEN' });
    expect(`${String(error)} ${JSON.stringify(error)}`).not.toContain(sealed.split('.')[4]);
  });

  it('is put under the current key without being encrypted anew', async () => {
    const old = await sealing.seal(secret, context);
    const both = createSealing(configuredKeys([k2, k1]));
    const made = await both.rewrap(old, context);
    expect([old, made].map((sealed) => sealed.split('.')[1])).toEqual(['k1', 'k2']);
    expect(made.split('.').slice(3)).toEqual(old.split('.').slice(3));
    expect(await createSealing(configuredKeys([k2])).openText(made, context)).toBe(secret);
    await expect(sealing.open(made, context)).rejects.toBeInstanceOf(UnknownKey);
  });
});

// Test case 14 of McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)".
it('AES-256-GCM is the standard one, with nothing shorter', () => {
  const zeros = { key: Buffer.alloc(32), iv: Buffer.alloc(12), text: Buffer.alloc(16) };
  const data = Buffer.from('cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919', 'hex');
  expect(decrypt(zeros.key, { iv: zeros.iv, data }, '')).toEqual(zeros.text);
  expect(() => decrypt(zeros.key, { iv: zeros.iv, data }, 'x')).toThrow('unable to authenticate');
  const made = encrypt(zeros.key, zeros.text, 'x');
  expect([made.iv.length, made.data.length]).toEqual([12, 16 + 16]);
  expect(decrypt(zeros.key, made, 'x')).toEqual(zeros.text);
  expect(() => decrypt(zeros.key, { ...made, iv: made.iv.subarray(0, 8) }, 'x')).toThrow(RangeError);
  expect(() => decrypt(zeros.key, { ...made, data: made.data.subarray(0, 15) }, 'x')).toThrow(RangeError);
});

describe('keys', () => {
  const text = ({ kid, key: bytes }: EncryptionKey, encoding: 'base64' | 'base64url' = 'base64') =>
    `${kid}:${bytes.toString(encoding)}`;

  it('are read from a line or from lines, in base64 or base64url', () => {
    expect(parseKeys(`${text(k2)},${text(k1, 'base64url')}`)).toEqual([k2, k1]);
    expect(parseKeys(`\n ${text(k2)} \r\n\n${text(k1)}\n`)).toEqual([k2, k1]);
  });

  it.each([
    '',
    'k1',
    ':AAAA',
    'k1:',
    `k 1:${k1.key.toString('base64')}`,
    `k.1:${k1.key.toString('base64')}`,
    `${'k'.repeat(41)}:${k1.key.toString('base64')}`,
    `k1:${randomBytes(31).toString('base64')}`,
    `k1:${randomBytes(33).toString('base64')}`,
    `k1:${randomBytes(32).toString('hex')}`,
    `${text(k1)},${text({ ...k2, kid: 'k1' })}`,
  ])('are refused when they are %j', (given) => {
    const problem = parseKeys(given);
    expect(problem).toBeTypeOf('string');
    for (const part of given.split(/[:,]/).filter((one) => one.length > 20)) expect(problem).not.toContain(part);
  });

  it('that are generated have an id of their own', () => {
    const [one, other] = [randomBytes(32).toString('base64url'), randomBytes(32).toString('base64url')];
    expect(generatedKey(one)).toEqual(generatedKey(one));
    expect(generatedKey(one).kid).toMatch(/^local-[0-9a-f]{8}$/);
    expect(generatedKey(one).kid).not.toBe(generatedKey(other).kid);
    expect(parseKeys(`${generatedKey(one).kid}:${one}`)).toEqual([generatedKey(one)]);
  });
});

it('a sealed column is declared once, by names that are safe in SQL', () => {
  const column = defineSealedColumn({ table: 'test_table', column: 'test_column' });
  expect(column.context('42')).toBe('test_table.test_column:42');
  expect(sealedColumns()).toContain(column);
  expect(() => defineSealedColumn({ table: 'test_table', column: 'test_column' })).toThrow('Two sealed columns');
  for (const name of ['a"b', 'A', '', 'a.b', 'a b'])
    expect(() => defineSealedColumn({ table: 't', column: name })).toThrow(TypeError);
});
