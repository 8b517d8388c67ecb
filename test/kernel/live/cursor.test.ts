import { expect, test } from 'vitest';
import { ValidationError } from '../../../src/kernel/errors.ts';
import { decodeCursor, encodeCursor } from '../../../src/kernel/live/cursor.ts';

const stream = '01890a5d-ac96-774b-bcce-b302099a8057';
const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

test.each([0n, 1n, 2n ** 53n + 1n, 2n ** 63n - 1n])('a cursor comes back as it was made: %s', (seq) => {
  const cursor = { stream, epoch: 7, seq };
  expect(decodeCursor(encodeCursor(cursor), stream)).toEqual(cursor);
});

test.each([
  ['nothing', ''],
  ['no base64', '%%%'],
  ['no JSON', Buffer.from('hello').toString('base64url')],
  ['bytes that are no text', Buffer.from([0xff, 0xfe, 0x00]).toString('base64url')],
  ['null', encoded(null)],
  ['an object', encoded({ stream, epoch: 1, seq: '1' })],
  ['too few parts', encoded([stream, 1])],
  ['too many parts', encoded([stream, 1, '1', '1'])],
  ['a stream that is no id', encoded(["' or 1=1 --", 1, '1'])],
  ['a seq that is a number', encoded([stream, 1, 1])],
  ['a negative seq', encoded([stream, 1, '-1'])],
  ['a seq in hexadecimal', encoded([stream, 1, '0x10'])],
  ['a seq above bigint', encoded([stream, 1, '9223372036854775808'])],
  ['a seq of 20 digits', encoded([stream, 1, '1'.repeat(20)])],
  ['a fractional epoch', encoded([stream, 1.5, '1'])],
  ['a negative epoch', encoded([stream, -1, '1'])],
  ['a huge text', encoded([stream, 1, '1', 'x'.repeat(1_000_000)])],
  ['deep JSON', Buffer.from('['.repeat(140)).toString('base64url')],
])('refused with a typed error: %s', (_, text) => {
  expect(() => decodeCursor(text, stream)).toThrow(ValidationError);
});

test('a cursor of another stream is refused and says so', () => {
  const other = encodeCursor({ stream: '01890a5d-ac96-774b-bcce-b302099a8058', epoch: 1, seq: 1n });
  expect(() => decodeCursor(other, stream)).toThrow(
    expect.objectContaining({ issues: [{ path: 'after', message: 'is a cursor of another stream' }] }),
  );
});
