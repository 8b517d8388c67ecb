import { GraphQLScalarType } from 'graphql';

/**
 * Text that only comes in. A refusal of a scalar is told with the value that was refused: this one takes everything, and
 * the verb says what is wrong with it.
 */
export const SecretScalar = new GraphQLScalarType<unknown, never>({
  name: 'Secret',
  description: 'Text that is given and never told back, not even in an error. Give it as a variable of the operation.',
  serialize() {
    throw new TypeError('A secret is not told.');
  },
  parseValue: (value) => value,
});
