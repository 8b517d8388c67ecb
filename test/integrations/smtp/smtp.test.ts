import { createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { MailRefused } from '#kernel/mail/transport.ts';
import { createSmtpTransport } from '../../../src/integrations/smtp/index.ts';
import { answer, bodyOf, certificate, headersOf, receiver, type Receiver } from './receiver.ts';

const from = Object.freeze({ name: 'Switchyard', address: 'no-reply@example.org' });
const mail = {
  id: '0190a7b2-0000-7000-8000-000000000001',
  to: 'ada@example.com',
  subject: 'Grüße, and a long subject that goes over the line that a header may have: it is folded and decoded again',
  text: 'Hello Ada,\n\n.a line with a dot\nhttps://switchyard.example.com/verify#token=s3cr3t-t0ken\n',
  at: new Date('2026-01-02T03:04:05Z'),
};

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});
async function started(...options: Parameters<typeof receiver>): Promise<Receiver> {
  const one = await receiver(...options);
  open.push(one);
  return one;
}
const transport = (url: string, ca?: string) => createSmtpTransport({ url, from, ...(ca ? { ca } : {}) });
const send = (url: string, ca?: string, signal = new AbortController().signal) => transport(url, ca).send(mail, signal);
const failed = async (sent: Promise<void>): Promise<Error> => {
  const error: unknown = await sent.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Error)) throw new Error('it did not fail');
  return error;
};
const localhost = certificate([{ dns: 'localhost' }, { ip: [127, 0, 0, 1] }, { ip: [0, 0, 0, 0] }]);
/** An address of this machine that does not look like one: what is said to it goes to loopback all the same. */
const elsewhere = (port: number, protocol = 'smtp') => `${protocol}://0.0.0.0:${port}`;

describe('a mail', () => {
  test('arrives as it was written, as plain text that no machine answers', async () => {
    const { port, received } = await started();
    await send(`smtp://127.0.0.1:${port}`);
    expect(received).toMatchObject([{ from: from.address, to: [mail.to], secure: false }]);
    const raw = received[0]?.raw ?? '';
    const headers = headersOf(raw);
    expect(Object.fromEntries(headers)).toMatchObject({
      from: 'Switchyard <no-reply@example.org>',
      to: 'ada@example.com',
      'message-id': `<${mail.id}@example.org>`,
      date: 'Fri, 02 Jan 2026 03:04:05 +0000',
      'auto-submitted': 'auto-generated',
      'content-type': 'text/plain; charset=utf-8',
    });
    expect([...headers.keys()].toSorted()).toEqual(
      [
        'auto-submitted',
        'content-transfer-encoding',
        'content-type',
        'date',
        'from',
        'message-id',
        'mime-version',
        'subject',
        'to',
      ].toSorted(),
    );
    expect(headers.get('subject')).toMatch(/^=\?UTF-8\?Q\?/);
    expect(bodyOf(raw).replaceAll('\r\n', '\n').trimEnd()).toBe(mail.text.trimEnd());
  });

  test('has the same id at every try, and another mail another one', async () => {
    const { port, received } = await started();
    const way = transport(`smtp://127.0.0.1:${port}`);
    const { signal } = new AbortController();
    await way.send(mail, signal);
    await way.send(mail, signal);
    await way.send({ ...mail, id: '0190a7b2-0000-7000-8000-000000000002' }, signal);
    const ids = received.map(({ raw }) => headersOf(raw).get('message-id'));
    expect(ids[0]).toBe(ids[1]);
    expect(ids[2]).not.toBe(ids[0]);
  });

  test.each([
    'ada@example.com\r\nBcc: eve@example.net',
    'ada@example.com, eve@example.net',
    'ada@example.com>\r\nRCPT TO:<eve@example.net',
  ])('to %j reaches nobody else', async (to) => {
    const { port, received } = await started();
    await transport(`smtp://127.0.0.1:${port}`)
      .send({ ...mail, to }, new AbortController().signal)
      .catch(() => undefined);
    for (const one of received) {
      expect(one.to.join()).not.toMatch(/^eve@/);
      expect(one.to).toHaveLength(1);
      expect(headersOf(one.raw).has('bcc')).toBe(false);
    }
  });

  test.each(['Hello\r\nBcc: eve@example.net', 'Hello\nBcc: eve@example.net', 'Hello\r\n\r\nanother text'])(
    'with the subject %j has no other headers',
    async (subject) => {
      const { port, received } = await started();
      await transport(`smtp://127.0.0.1:${port}`).send({ ...mail, subject }, new AbortController().signal);
      expect(received[0]?.to).toEqual([mail.to]);
      expect(headersOf(received[0]?.raw ?? '').has('bcc')).toBe(false);
      expect(bodyOf(received[0]?.raw ?? '')).toMatch(/^Hello Ada,/);
    },
  );
});

describe('TLS', () => {
  test('from the start, with a certificate that is verified', async () => {
    const { port, received } = await started({ secure: true, ...localhost });
    await send(elsewhere(port, 'smtps'), localhost.cert);
    expect(received).toMatchObject([{ secure: true }]);
  });

  test('by STARTTLS, where the server has it', async () => {
    const { port, received } = await started(localhost);
    await send(elsewhere(port), localhost.cert);
    await send(`smtp://127.0.0.1:${port}`);
    expect(received).toMatchObject([{ secure: true }, { secure: true }]);
  });

  test('is not done without, except to this machine', async () => {
    const { port, received } = await started();
    const error = await failed(send(elsewhere(port)));
    expect(error.message).toMatch(/STARTTLS/i);
    expect(error).not.toBeInstanceOf(MailRefused);
    await send(`smtp://localhost:${port}`);
    expect(received).toHaveLength(1);
  });

  test.each([
    ['that nobody has signed', localhost, undefined],
    ['of another name', certificate([{ dns: 'mail.example.com' }]), 'own'],
    ['that has expired', certificate([{ ip: [0, 0, 0, 0] }], new Date(Date.now() - 1000)), 'own'],
  ] as const)('a certificate %s is refused before anything is said', async (_, given, ca) => {
    for (const secure of [true, false]) {
      const { port, received } = await started({ ...given, secure });
      const url = new URL(elsewhere(port, secure ? 'smtps' : 'smtp'));
      url.username = 'switchyard';
      url.password = 'right';
      await failed(send(url.href, ca && given.cert));
      expect(received).toEqual([]);
    }
  });
});

describe('signing in', () => {
  test('is with the name and password of the URL, percent-decoded', async () => {
    const { port, received } = await started({ secure: true, authOptional: false, ...localhost });
    await send(`smtps://post%40example.org:right@127.0.0.1:${port}`);
    expect(received).toMatchObject([{ user: 'post@example.org' }]);
  });

  test('with a wrong password is no refusal of the mail, and does not show the password', async () => {
    const { port } = await started({ secure: true, authOptional: false, ...localhost });
    const error = await failed(send(`smtps://me:wr0ng-passw0rd@127.0.0.1:${port}`));
    expect(error).not.toBeInstanceOf(MailRefused);
    expect(error.message).toContain('535');
    expect(everythingIn(error)).not.toContain('wr0ng-passw0rd');
  });
});

describe('an answer', () => {
  test.each([
    ['550 to the recipient', { onRcptTo: (_a, _s, done) => done(answer(550, '5.1.1 <ada@example.com> is unknown')) }],
    [
      '554 to the message',
      { onData: (stream, _s, done) => stream.on('end', () => done(answer(554, 'Spam'))).resume() },
    ],
  ] satisfies [string, Parameters<typeof receiver>[0]][])('%s is a refusal for good', async (_, options) => {
    const { port } = await started(options);
    const error = await failed(send(`smtp://127.0.0.1:${port}`));
    expect(error).toBeInstanceOf(MailRefused);
    expect(error.message).toMatch(/55[04]/);
  });

  test.each([
    ['450 to the recipient', { onRcptTo: (_a, _s, done) => done(answer(450, 'Greylisted, <ada@example.com>')) }],
    [
      '452 to the message',
      { onData: (stream, _s, done) => stream.on('end', () => done(answer(452, 'Full'))).resume() },
    ],
    ['550 to the sender', { onMailFrom: (_a, _s, done) => done(answer(550, 'not yours')) }],
    ['421 at once', { onConnect: (_s, done) => done(answer(421, 'Busy')) }],
  ] satisfies [string, Parameters<typeof receiver>[0]][])('%s is for another try', async (_, options) => {
    const { port } = await started(options);
    const error = await failed(send(`smtp://127.0.0.1:${port}`));
    expect(error).not.toBeInstanceOf(MailRefused);
    expect(error.message).toMatch(/4\d\d|550/);
  });

  test('never brings addresses or the text into an error', async () => {
    const { port } = await started({
      onRcptTo: (_a, _s, done) => done(answer(550, `<ada@example.com> and eve@example.net are unknown`)),
    });
    const said = everythingIn(await failed(send(`smtp://127.0.0.1:${port}`)));
    expect(said).toContain('550');
    for (const word of ['ada', 'eve@', 'example.com', 's3cr3t', 'Grüße']) expect(said).not.toContain(word);
  });
});

describe('a server', () => {
  test('that is down is for another try', async () => {
    const one = await receiver();
    await one.close();
    const error = await failed(send(`smtp://127.0.0.1:${one.port}`));
    expect(error).not.toBeInstanceOf(MailRefused);
    expect(error.message).toContain('ECONNREFUSED');
  });

  test('that says nothing is left when the signal aborts', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    const abort = new AbortController();
    const sent = failed(send(`smtp://127.0.0.1:${port}`, undefined, abort.signal));
    await once(silent, 'connection');
    const closed = Promise.all(sockets.map((socket) => once(socket.resume(), 'close')));
    const begun = performance.now();
    abort.abort();
    expect((await sent).message).toMatch(/abort/i);
    expect(await closed).toHaveLength(1);
    // Before the first time-out for a silent server, which is ten seconds.
    expect(performance.now() - begun).toBeLessThan(9000);
    silent.close();
  });
});

/** All that a log or a queue could make of an error. */
function everythingIn(error: Error): string {
  const own = Object.getOwnPropertyNames(error).map((name) => String((error as never)[name]));
  return [...own, JSON.stringify(error), String(error.cause)].join('\n');
}
