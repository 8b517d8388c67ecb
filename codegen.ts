import type { CodegenConfig } from '@graphql-codegen/cli';

/**
 * Typed documents for the tests: `graphql(…)` in a test gives a document that knows its variables and its answer. The
 * output is not committed: `npm run generate` makes it, before the types are checked.
 */
const config: CodegenConfig = {
  schema: 'schema.graphql',
  documents: ['test/**/*.ts', '!test/generated/**'],
  ignoreNoDocuments: true,
  generates: {
    'test/generated/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false },
      config: {
        documentMode: 'string',
        useTypeImports: true,
        enumsAsTypes: true,
        strictScalars: true,
        scalars: {
          BigInt: 'string | number',
          DateTime: 'string',
          ID: 'string',
          JSON: 'unknown',
          NonNegativeInt: 'number',
          Secret: 'string',
          URL: 'string',
        },
        importExtension: '.ts',
        emitLegacyCommonJSImports: false,
      },
    },
  },
};
export default config;
