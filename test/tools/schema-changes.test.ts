import { expect, test } from 'vitest';
import { breakingChanges } from '../../tools/schema-changes.ts';

const released = `
  type Query { a(x: Int, y: Int @deprecated): Int  b: Int @deprecated(reason: "Use a.")  c: E  d(i: I): Int }
  enum E { P Q @deprecated R }
  input I { m: Int n: Int @deprecated }
`;

test('additions break nothing', () => {
  expect(breakingChanges(released, `${released} type New { a: Int } extend type Query { new(a: Int): New }`)).toEqual(
    [],
  );
});

test('what was deprecated may go: fields, arguments, values, input fields', () => {
  const now = 'type Query { a(x: Int): Int c: E d(i: I): Int } enum E { P R } input I { m: Int }';
  expect(breakingChanges(released, now)).toEqual([]);
});

test('everything else that clients would notice is named', () => {
  const now = 'type Query { a: String b: Int c: E d(i: I): Int } enum E { P } input I { m: Int n: Int o: Int! }';
  expect(breakingChanges(released, now)).toEqual([
    'Query.a arg x was removed.',
    'Query.a changed type from Int to String.',
    'R was removed from enum type E.',
    'A required field o on input type I was added.',
  ]);
});
