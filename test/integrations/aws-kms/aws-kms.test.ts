import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { createAwsKms, KmsUnavailable } from '../../../src/integrations/aws-kms/index.ts';
import { createOutboundPolicy } from '#kernel/outbound.ts';
import { createOutboundFetch } from '#kernel/outbound-fetch.ts';
import { SealBroken } from '#kernel/sealing/errors.ts';
import { configuredKeys } from '#kernel/sealing/key-ring.ts';
import { parseKmsKeys } from '#kernel/sealing/keys.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { conformance, type MakeRing } from '../../kernel/sealing/conformance.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer } from '../../support/server.ts';
import { fakeKms, type FakeKms } from './fake-kms.ts';

const kids = ['a', 'b', 'c'];
const region = 'eu-central-1';
const arnOf = (kid: string) => `arn:aws:kms:${region}:111122223333:key/${kid}-0000`;
const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };
const context = 'test.value:1';

let kms: FakeKms;
beforeAll(async () => {
  kms = await fakeKms(kids.map(arnOf));
});
afterAll(() => kms.stop());

const fetch = createOutboundFetch({ policy: createOutboundPolicy({ allowLoopback: true }), timeoutMs: 3000 });
const ringOf = (names: readonly string[], options: { maxAgeMs?: number; maxKept?: number } = {}) =>
  createAwsKms({
    keys: names.map((kid) => ({ kid, arn: arnOf(kid), region })),
    fetch,
    endpoint: kms.url,
    credentials,
    ...options,
  });
const askedWhile = async (act: () => Promise<unknown>): Promise<string[]> => {
  const before = kms.asked.length;
  await act();
  return kms.asked.slice(before);
};

const configured = new Map(kids.map((kid) => [kid, randomBytes(32)]));
const sources: readonly (readonly [string, MakeRing])[] = [
  [
    'the configuration',
    (...names) => configuredKeys(names.map((kid) => ({ kid, key: configured.get(kid) as Buffer }))),
  ],
  ['AWS KMS, as a stand-in has it', (...names) => ringOf(names)],
];
describe.each(sources)('keys of %s', (_, make) => {
  test.each(conformance)('a ring %s', async (_what, holds) => expect(holds(make)).resolves.toBeUndefined());
});

describe('a key in KMS', () => {
  test('is asked for once for many values at once, and once by whoever opens them', async () => {
    const ring = ringOf(['a']);
    const dataKeys = Array.from({ length: 50 }, () => randomBytes(32));
    let wrapped: Buffer[] = [];
    const sealing = await askedWhile(async () => {
      wrapped = await Promise.all(dataKeys.map((dataKey) => ring.wrap(dataKey, context)));
      await ring.unwrap('a', wrapped[0] as Buffer, context);
    });
    expect(sealing).toEqual(['GenerateDataKey']);
    const other = ringOf(['a']);
    const opening = await askedWhile(async () => {
      expect(await Promise.all(wrapped.map((one) => other.unwrap('a', one, context)))).toEqual(dataKeys);
    });
    expect(opening).toEqual(['Decrypt']);
  });

  test('is asked for again when the data key is old, and refuses then if it was disabled', async () => {
    const ring = ringOf(['b'], { maxAgeMs: 300 });
    onTestFinished(() => kms.disable(arnOf('b'), false));
    const wrapped = await ring.wrap(randomBytes(32), context);
    kms.disable(arnOf('b'));
    await until('what is kept has been forgotten', async () =>
      ring.unwrap('b', wrapped, context).then(
        () => false,
        (error: unknown) => error instanceof KmsUnavailable,
      ),
    );
    await expect(ring.wrap(randomBytes(32), context)).rejects.toThrow(/key b as it should: DisabledException/);
    // A failure is not kept.
    kms.disable(arnOf('b'), false);
    expect(await ring.unwrap('b', wrapped, context)).toHaveLength(32);
  });

  test('is kept with so many others and no more; what KMS refuses is not kept', async () => {
    const wrapped = await Promise.all([0, 1, 2].map(() => ringOf(['a']).wrap(randomBytes(32), context)));
    const ring = ringOf(['a'], { maxKept: 2 });
    const open = (index: number) => askedWhile(() => ring.unwrap('a', wrapped[index] as Buffer, context));
    for (const index of [0, 1, 2]) expect(await open(index)).toEqual(['Decrypt']);
    expect(await open(1)).toEqual([]);
    expect(await open(2)).toEqual([]);
    expect(await open(0)).toEqual(['Decrypt']);
    const forged = Buffer.from(wrapped[0] as Buffer);
    forged[20] = (forged[20] ?? 0) ^ 1;
    for (let i = 0; i < 2; i++) await expect(ring.unwrap('a', forged, context)).rejects.toBeInstanceOf(SealBroken);
    expect(await open(0)).toEqual([]);
  });

  test('is renewed before it is old, and nobody who seals waits for that', async () => {
    const maxAgeMs = 4000;
    const ring = ringOf(['a'], { maxAgeMs });
    const blobOf = async () => (await ring.wrap(randomBytes(32), context)).subarray(0, 63).toString('hex');
    const before = performance.now();
    const first = await blobOf();
    // Nobody seals meanwhile, so nobody's sealing asks KMS.
    const asked = kms.asked.length;
    await until('KMS is asked for another', async () => kms.asked.length > asked);
    expect(performance.now() - before).toBeLessThan(maxAgeMs);
    await until('it is used', async () => (await blobOf()) !== first);
    expect(performance.now() - before).toBeLessThan(maxAgeMs);
    expect(kms.asked.slice(asked)).toEqual(['GenerateDataKey']);
  });

  test('of another KMS key, or bound to another id, does not open', async () => {
    const wrapped = await ringOf(['a']).wrap(randomBytes(32), context);
    // The id is part of KMS's encryption context: the same ARN under another id is refused there.
    const renamed = createAwsKms({
      keys: [{ kid: 'x', arn: arnOf('a'), region }],
      fetch,
      endpoint: kms.url,
      credentials,
    });
    await expect(renamed.unwrap('x', wrapped, context)).rejects.toBeInstanceOf(SealBroken);
    const moved = createAwsKms({
      keys: [{ kid: 'a', arn: arnOf('b'), region }],
      fetch,
      endpoint: kms.url,
      credentials,
    });
    await expect(moved.unwrap('a', wrapped, context)).rejects.toBeInstanceOf(SealBroken);
  });

  test.each(['a=arn:aws:kms:eu-central-1:111122223333:alias/x', 'a', '=x', 'a b=x', ''])('%j is none', (text) => {
    expect(parseKmsKeys(text)).toMatch(/must be id=ARN/);
    expect(parseKmsKeys(`a=${arnOf('a')}, a=${arnOf('b')}`)).toMatch(/twice/);
    expect(parseKmsKeys(`a=${arnOf('a')}, b=${arnOf('b')}`)).toHaveLength(2);
  });
});

describe('a server', () => {
  const env = () => ({
    SWITCHYARD_ROLES: 'worker',
    SWITCHYARD_PROCESS_DRIVER: 'false',
    SWITCHYARD_ENCRYPTION_KMS_KEYS: `a=${arnOf('a')}`,
    SWITCHYARD_KMS_ENDPOINT: kms.url,
  });
  const withCredentials = () => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'test');
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'test');
    onTestFinished(() => void vi.unstubAllEnvs());
  };

  test('seals with its key in KMS', async () => {
    withCredentials();
    const server = await startTestServer(env());
    onTestFinished(() => server.stop());
    const sealing = server.running.app.use(Sealing);
    const sealed = await sealing.seal('secret', context);
    expect(sealed).toMatch(/^v1\.a\./);
    expect(await sealing.openText(sealed, context)).toBe('secret');
  });

  test('does not start when KMS does not answer, or refuses the key', async () => {
    withCredentials();
    await expect(startTestServer({ ...env(), SWITCHYARD_KMS_ENDPOINT: 'http://127.0.0.1:9' })).rejects.toThrow(
      /key management service did not answer for the key a/,
    );
    kms.disable(arnOf('a'));
    onTestFinished(() => kms.disable(arnOf('a'), false));
    await expect(startTestServer(env())).rejects.toThrow(/DisabledException/);
  });
});
