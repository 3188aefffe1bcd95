// Decodes what the tests hand over, with the decoder of the playground; runs in Node and in browsers.
// Called with the folder of the decoder as a URL and a list of cases; gives one answer per case.

const digest = async (bytes) => {
  const hash = new Uint8Array(await globalThis.crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
};
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** The value, or what a FileError says; other errors are faults of the decoder and end the run. */
async function attempt(FileError, work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof FileError) return { error: error.message };
    throw error;
  }
}

export async function decodeAll(folder, cases) {
  const decoder = await import(`${folder}press.js`);
  const { restore, checkGraph, FileError } = decoder;
  const { DICTIONARIES } = await import(`${folder}dictionaries.js`);
  const answers = [];
  for (const one of cases) {
    const data = bytesOf(one.data);
    if (one.graph) {
      answers.push(await attempt(FileError, () => checkGraph(data)));
    } else if (one.shape) {
      answers.push(await attempt(FileError, async () => digest(restore({ ...one, name: "a", offset: 0, data }))));
    } else {
      answers.push(await attempt(FileError, () => whole(data, one.limit, DICTIONARIES, decoder)));
    }
  }
  return answers;
}

async function whole(data, limitBytes, dictionaries, { loads, restore, modelBytes, FileError }) {
  const press = loads(data, { dictionaries, ...(limitBytes ? { limitBytes } : {}) });
  const tensors = [];
  for (const tensor of press.tensors) {
    const { name, shape, form, dtype, chain } = tensor;
    tensors.push([name, shape, form, dtype, chain, await attempt(FileError, async () => digest(restore(tensor)))]);
  }
  const { arch, inputShape, mean, std, classes, aliases, meta } = press.header;
  return {
    network: [arch.source, arch.name, arch.settings, arch.edits],
    header: [inputShape, mean, std, classes, aliases, meta],
    tensors,
    graph: await digest(press.graph),
    model: await attempt(FileError, async () => digest(modelBytes(press))),
  };
}
