import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { createOutboundPolicy, OutboundRefused, publicLookup, type OutboundRefusal } from '#kernel/outbound.ts';

async function refusal(check: Promise<unknown>): Promise<OutboundRefused> {
  const error: unknown = await check.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof OutboundRefused)) throw new Error(`not refused: ${String(error)}`);
  return error;
}

const policyWith = (addresses: string[], allowLoopback = false) =>
  createOutboundPolicy({ allowLoopback, lookup: () => Promise.resolve(addresses) });

describe('the outbound policy', () => {
  test('passes a host whose addresses are all public, and gives them', async () => {
    const checked = await policyWith(['93.184.215.14', '2606:2800:21f:cb07:6820:80da:af6b:8b2c']).check(
      'https://example.com/a?b',
    );
    expect(checked.url.href).toBe('https://example.com/a?b');
    expect(checked.addresses).toEqual(['93.184.215.14', '2606:2800:21f:cb07:6820:80da:af6b:8b2c']);
  });

  test.each([
    '0.0.0.0',
    '10.1.2.3',
    '100.64.0.1',
    '127.0.0.1',
    '169.254.169.254',
    '172.16.0.1',
    '192.0.0.1',
    '192.0.2.1',
    '192.88.99.1',
    '192.168.1.1',
    '198.18.0.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '::',
    '::1',
    '::127.0.0.1',
    '::ffff:10.0.0.1',
    '::ffff:127.0.0.1',
    '64:ff9b::a00:1',
    '64:ff9b:1::1',
    '100::1',
    '2001::1',
    '2001:db8::1',
    '2002:a00:1::1',
    '3fff::1',
    '4000::1',
    'fc00::1',
    'fe80::1',
    'fe80::1%eth0',
    'fec0::1',
    'ff02::1',
    'nonsense',
  ])('refuses a host at %s', async (address) => {
    // prettier-ignore
    const refused = await refusal(policyWith(['93.184.215.14', address]).check('http://example.com/'));
    expect(refused).toMatchObject({ code: 'OUTBOUND_REFUSED', reason: 'ADDRESS' });
    expect(refused.message).not.toContain(address);
  });

  test.each<[string, OutboundRefusal]>([
    ['nonsense', 'INVALID_URL'],
    ['https://', 'INVALID_URL'],
    ['file:///etc/passwd', 'PROTOCOL'],
    ['ssh://example.com/a', 'PROTOCOL'],
    ['gopher://example.com/', 'PROTOCOL'],
    ['https://me:secret@example.com/', 'CREDENTIALS'],
    ['https://token@example.com/', 'CREDENTIALS'],
    ['http://127.0.0.1/', 'ADDRESS'],
    ['http://2130706433/', 'ADDRESS'],
    ['http://0x7f.1/', 'ADDRESS'],
    ['http://[::1]/', 'ADDRESS'],
    ['http://[::ffff:7f00:1]/', 'ADDRESS'],
    ['http://169.254.169.254/latest/meta-data', 'ADDRESS'],
  ])('refuses %s: %s', async (url, reason) => {
    expect((await refusal(policyWith(['93.184.215.14']).check(url))).reason).toBe(reason);
  });

  test('takes further schemes from the caller, and reads their hosts as addresses, too', async () => {
    const options = { protocols: ['ssh:'] };
    expect((await policyWith(['93.184.215.14']).check('ssh://example.com/a', options)).addresses).toEqual([
      '93.184.215.14',
    ]);
    expect((await refusal(policyWith([]).check('ssh://0x7f.1/a', options))).reason).toBe('ADDRESS');
    expect((await policyWith([]).check('ssh://010.0.0.1/a', options)).addresses).toEqual(['8.0.0.1']);
  });

  test('allows loopback, and nothing else that is private, where it is said', async () => {
    const policy = policyWith(['127.0.0.1', '::1'], true);
    expect((await policy.check('http://localhost:3000/')).addresses).toEqual(['127.0.0.1', '::1']);
    expect((await policy.check('http://[::ffff:127.0.0.1]/')).addresses).toEqual(['127.0.0.1']);
    expect((await refusal(policyWith(['10.0.0.1'], true).check('http://example.com/'))).reason).toBe('ADDRESS');
  });

  test('does not tell credentials or the query', async () => {
    const refused = await refusal(policyWith([]).check('https://me:secret@example.com/path?token=secret#secret'));
    expect(refused.url).toBe('https://example.com/path');
    expect(refused.message).not.toContain('secret');
  });

  test('says when a host has no address', async () => {
    expect((await refusal(policyWith([]).check('https://example.com/'))).reason).toBe('UNRESOLVED');
    const failing = createOutboundPolicy({
      allowLoopback: false,
      lookup: () => Promise.reject(new Error('ENOTFOUND')),
    });
    expect((await refusal(failing.check('https://example.com/'))).reason).toBe('UNRESOLVED');
  });

  test('resolves once, and not at all when it is aborted', async () => {
    let asked = 0;
    const policy = createOutboundPolicy({
      allowLoopback: false,
      lookup: () => Promise.resolve(((asked += 1), ['93.184.215.14'])),
    });
    await policy.check('https://example.com/');
    expect(asked).toBe(1);
    await expect(
      policy.check('https://example.com/', { signal: AbortSignal.abort(new Error('stop')) }),
    ).rejects.toThrow('stop');
    expect(asked).toBe(1);
  });

  test('does not wait for a slow resolver when it is aborted', async () => {
    const policy = createOutboundPolicy({
      allowLoopback: false,
      lookup: () => Promise.withResolvers<string[]>().promise,
    });
    const controller = new AbortController();
    const check = policy.check('https://example.com/', { signal: controller.signal });
    controller.abort(new Error('stop'));
    await expect(check).rejects.toThrow('stop');
  });
});

describe('looking a name up', () => {
  /** A name server that answers questions for IPv4 addresses alone, or nothing at all. */
  async function nameServer(address: readonly number[] | null) {
    const socket = createSocket('udp4');
    socket.on('message', (question, { port }) => {
      if (!address) return;
      // RFC 1035, 4: the question again with another header, and one record that points back to its name.
      const isA = question.readUInt16BE(question.indexOf(0, 12) + 1) === 1;
      const asked = question.subarray(0, question.indexOf(0, 12) + 5);
      const answer = Buffer.concat([asked, Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, ...address])]);
      const told = isA ? answer : Buffer.from(asked);
      told.writeUInt16BE(0x8180, 2);
      for (const [at, count] of [1, Number(isA), 0, 0].entries()) told.writeUInt16BE(count, 4 + 2 * at);
      socket.send(told, port, '127.0.0.1');
    });
    socket.bind(0, '127.0.0.1');
    await once(socket, 'listening');
    return { servers: [`127.0.0.1:${socket.address().port}`], close: () => socket.close() };
  }

  test('asks the name servers; one kind of address will do', async () => {
    const { servers, close } = await nameServer([93, 184, 215, 14]);
    expect(await publicLookup('example.com', AbortSignal.timeout(5000), servers)).toEqual(['93.184.215.14']);
    close();
  });

  test('ends when it is called off, and holds up nobody else', async () => {
    const { servers, close } = await nameServer(null);
    const stop = new AbortController();
    const asked = Array.from({ length: 50 }, (_, i) => publicLookup(`silent-${i}.example.com`, stop.signal, servers));
    const all = Promise.allSettled(asked);
    // Two of the system's threads would be taken by the first two, and there are no more.
    const policy = createOutboundPolicy({ allowLoopback: true });
    expect((await policy.check('http://localhost/')).addresses.length).toBeGreaterThan(0);
    stop.abort();
    expect((await all).map(({ status }) => status)).toEqual(Array.from({ length: 50 }, () => 'rejected'));
    close();
  });
});
