import { GraphQLError, GraphQLScalarType, Kind } from 'graphql';

/**
 * Whole numbers of any size: JSON numbers where those are exact, else decimal text. The scalar of graphql-scalars does
 * the same and prints a line to standard error, which is no line of the log.
 */
export const BigIntScalar = new GraphQLScalarType<bigint, number | string>({
  name: 'BigInt',
  description: 'The `BigInt` scalar type represents non-fractional signed whole numeric values.',
  serialize(value) {
    const whole = wholeOf(value);
    const number = Number(whole);
    return Number.isSafeInteger(number) ? number : String(whole);
  },
  parseValue: wholeOf,
  parseLiteral(node) {
    if (node.kind === Kind.INT || node.kind === Kind.STRING) return wholeOf(node.value);
    throw new GraphQLError('BigInt cannot represent this value', { nodes: node });
  },
  extensions: { jsonSchema: { type: 'integer', format: 'int64' } },
});

/** As much as no number of ours has. */
const maxDigits = 100;

function wholeOf(value: unknown): bigint {
  const text = typeof value === 'number' || typeof value === 'bigint' || typeof value === 'string' ? String(value) : '';
  if (text.length > maxDigits || !/^(?:0|-?[1-9]\d*)$/.test(text))
    throw new GraphQLError(`BigInt cannot represent value: ${text.slice(0, maxDigits)}`);
  return BigInt(text);
}
