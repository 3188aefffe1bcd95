"""The preset dictionaries of the format: bytes that headers and graphs of small networks are likely to repeat.

A dictionary never changes once a version that uses it is released: a better one gets the next id. It lists operators
and attributes as protobuf bytes, then JSON with usual tensor names, shapes and chains, then a graph's usual beginning
and end; what is likeliest stands last, where deflate refers to it most cheaply. Version 1 of the format uses the first,
version 2 the second, which `benchmarks/press_dictionary.py` made of whole networks.
"""

from netpress.codec import dictionary_2

DICTIONARIES = {
    1: b""
    b'"\x0bHardSigmoid"\tLeakyRelu"\x05PRelu"\x03Pad"\x05Split"\x05Slice"\x07Squeeze"\tUnsqueeze"\x06Expand"'
    b'\x08CastLike"\x04Cast"\rConvTranspose"\x06Resize"\x05Where"\x07Softmax"\x06Gather"\x03Sub"\x03Div"\x04Sqr'
    b't"\x03Pow"\x03Erf"\x07Sigmoid"\x04Tanh"\tHardSwish"\x04Clip"\x07Reshape"\tTranspose"\x05Shape"\x12LayerNo'
    b'rmalization"\x0eQuantizeLinear"\x10DequantizeLinear"\x03Mul.codes.scale.zero*\x0c\n\x07epsilon*\x13\n\x04'
    b"perm@\x00@\x02@\x01@\x03@\x04\xa0\x01\x07*\x10\n\tceil_mode\x18\x01\xa0\x01\x02*\x18\n\x11count_include_p"
    b"ad\x18\x01\xa0\x01\x02*\x0f\n\x08keepdims\x18\x00\xa0\x01\x02*\x0b\n\x04axis\x18\x01\xa0\x01\x02*\x1b\n"
    b"\x14noop_with_empty_axes\x18\x01\xa0\x01\x02*\t\n\x02to\x18\x07\xa0\x01\x02*\x11\n\nvalue_ints@\x01\xa0"
    b"\x01\x07\n\nvalue_ints@\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\xa0\x01\x07\n*\x05value*\x08\x10\x01J\x04"
    b'\x00\x00\x00\x00\xa0\x01\x04"\x08Constant*"\n\x05value*\x16\x08\x02\x10\x07J\x10\x02\x00\x00\x00\x00\x00'
    b'\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\xa0\x01\x04"\x06Concat*\x0b\n\x04axis\x18\x01\xa0\x01\x02"\nRedu'
    b'ceMean"\x11GlobalAveragePool"\x0bAveragePool*\x15\n\x0ckernel_shape@\x08@\x08\xa0\x01\x07*\x10\n\x07strid'
    b'es@\x02@\x02\xa0\x01\x07\n\x02t1\n\x02t2\n\x02t3\n\x02t4"\x12BatchNormalization\n\x03t21\n\x03t22\n\x03t2'
    b'3\n\x03t24\x12\x0230"\x12BatchNormalization\n\x12\n\x0211\x12\x0212"\x04Relu\n\x15\n\x0213\n\x0210\x12'
    b'\x0214"\x03Add\n\x18\n\x0212\n\x03t15\n\x03t16\x12\x0213"\x04Conv*\x0c\n\x05group\x18 \xa0\x01\x02*\x11\n'
    b'\x04pads@\x01@\x01@\x01@\x01\xa0\x01\x07*\x10\n\x07strides@\x02@\x02\xa0\x01\x07"\x04Conv*\x11\n\x04pads@'
    b'\x02@\x02@\x02@\x02\xa0\x01\x07"\x07MaxPool*\x11\n\x04pads@\x01@\x01@\x01@\x01\xa0\x01\x07*\x10\n\x07stri'
    b"des@\x02@\x02\xa0\x01\x07*\x15\n\x0ckernel_shape@\x03@\x03\xa0\x01\x07\x12\x01gZ\x1c\n\x01x\x12\x17\n\x15"
    b'\x08\x01\x12\x11\n\x03\x12\x01n\n\x02\x08\x03\n\x03\x08\xe0\x01"meta","timm","torchvision","own",{"settin'
    b'gs":"classes":["airplane","automobile","bird","cat","deer","dog","frog","horse","ship","truck"]resnet18",'
    b'"mobilenet_v2","vgg16","squeezenet","densenet121","condensenet-mnist"[3,224,224],[0.485,0.456,0.406],[0.2'
    b'29,0.224,0.225],[3,32,32],[0.4914,0.4822,0.4465],[0.247,0.2435,0.2616],"int64"]"float16"]"shared","float1'
    b'6","int8"]backbone.stem.conv_stem.blocks.se.conv_reduce.conv_expand.conv_dw.conv_pw.denseblock1.denselaye'
    b'r1.norm1.weight","stages.head.linear.fire2.squeeze.expand1x1.expand3x3.weight","classifier.1.weight",[10,'
    b'"classifier.6.bias",[1000]["features.0.0.weight",[32,3,3,3]],["features.3.conv.1.0.bias",[96]],["features'
    b'.10.weight",[512,512,3,3],["layer1.0.bn1.running_mean",[64]],["layer1.0.bn1.running_var",[64]],["layer2.0'
    b'.downsample.0.weight",[128,64,1,1]],["layer3.1.conv2.weight",[256,256,3,3],1234,"rel6+rans","shared"],["l'
    b'ayer4.1.bn2.weight",[512]],["layer4.1.bn2.bias",[512]],"rel3+"rel4+"rel7+"rel8+bits+half","huffman","mask'
    b'+huffman+rans","shared"],"mask+rans+half"],["rans","shared"],["conv3.weight",[64,32,5,5],"conv3.bias",[32'
    b']],["conv2.weight",[32,16,3,3],1000,"rel5+rans","shared"],["conv2.bias",[32]],["fc3.weight",[10,100],"fc3'
    b'.bias",[10]]]],["fc1.weight",[512,1024],10000,"rel4+rans","shared"],["fc1.bias",[512],256,"raw+half"],["f'
    b'c2.weight",[10,256],500,"mask+rans","shared"],["fc2.bias",[10],20,"raw+half"]]][["zoo","lenet-mnist"],[1,'
    b'28,28],[0.1307],[0.3081],[["conv1.weight",[16,1,3,3],300,"rel5+rans","shared"],["conv1.bias",[16]],\n\x02'
    b't8\n\x02t9\x12\x019"\x04Conv\n*\n\x018\n\x02t6\n\x02t7\x12\x019"\x04Conv*\x11\n\x04pads@\x01@\x01@\x01@'
    b'\x01\xa0\x01\x07\n\x0f\n\x017\x12\x018"\x07Flatten\n\x0c\n\x016\x12\x017"\x04Relu\n8\n\x015\x12\x016"\x07'
    b"MaxPool*\x10\n\x07strides@\x02@\x02\xa0\x01\x07*\x15\n\x0ckernel_shape@\x02@\x02\xa0\x01\x07\n#\n\x014\n"
    b'\x02t4\n\x02t5\x12\x015"\x04Gemm*\r\n\x06transB\x18\x01\xa0\x01\x02\n\x14\n\x013\n\x02t2\n\x02t3\x12\x014'
    b'"\x04Conv\n\x0c\n\x012\x12\x013\n\x0c\n\x011\x12\x012\n\x0c\n\x010\x12\x011"\x04Relu\x12\x01y"\x04Gemm*\r'
    b"\n\x06transB\x18\x01\xa0\x01\x02\x12\x01gZ\x1c\n\x01x\x12\x17\n\x15\x08\x01\x12\x11\n\x03\x12\x01n\n\x02"
    b"\x08\x01\n\x02\x08\x1c\n\x02\x08\x1cb\x14\n\x01y\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\nB"
    b"\x04\n\x00\x10\x14\x08\n:\xc0\x02\n\x14\n\x01x\n\x02t0\n\x02t1\x12\x010",
    2: dictionary_2.BYTES,
}
"""Dictionary id (in version 1 the tenth byte of a file) -> bytes.

>>> import hashlib
>>> hashlib.sha256(DICTIONARIES[1]).hexdigest()[:16]
'd1637a6c868e646f'
>>> hashlib.sha256(DICTIONARIES[2]).hexdigest()[:16]
'2874b999f68230e9'
"""
